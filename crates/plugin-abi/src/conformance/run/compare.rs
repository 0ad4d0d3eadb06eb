//! Everything, compared after the last step.

use super::super::generate::SLOTS;
use super::super::model::Kind;
use super::{Checked, Difference, Session, same_bytes};
use crate::path::MountPath;
use crate::types::Open;

impl Session<'_> {
    /// After the last step: every name, attribute and byte.
    pub(in crate::conformance) fn compare_everything(&mut self) -> Checked {
        let explain =
            |what: String| move |difference: Difference| Difference { afterwards: Some(what), ..difference };
        let names: Vec<_> = self.model.names.iter().map(|(name, &id)| (name.clone(), id)).collect();
        for (path, id) in names {
            let shown = if path.is_empty() { "the directory itself" } else { &path };
            if !path.is_empty() {
                self.stat(&path).map_err(explain(format!("getattr({shown})")))?;
            }
            match self.model.nodes[id].kind.clone() {
                Kind::Directory => {
                    self.check_list(&path, usize::MAX).map_err(explain(format!("readdir({shown})")))?;
                }
                Kind::Symlink(_) => {
                    self.readlink(&path, 4096).map_err(explain(format!("readlink({shown})")))?;
                }
                Kind::File(data) => {
                    self.compare_file(&path, &data).map_err(explain(format!("reading {shown}")))?;
                }
            }
        }
        for slot in 0..SLOTS {
            let len = self.file(slot).map_or(0, |data| data.len() + 1);
            self.read(slot, 0, &[len]).map_err(explain(format!("read(h{slot}, everything)")))?;
            self.stat_open(slot).map_err(explain(format!("fgetattr(h{slot})")))?;
        }
        Ok(())
    }

    fn compare_file(&mut self, path: &str, data: &[u8]) -> Checked {
        let name = self.path(path);
        let got = self.fs.open(MountPath::from_normalised(&name), libc::O_RDONLY, 0);
        let Some(Open::Served { handle, .. }) = self.verdict("open", got, Ok(()))? else { return Ok(()) };
        let mut buf = vec![0; data.len() + 1];
        let got = self.fs.read(&handle, &mut buf, 0);
        let closed = self.fs.close(handle);
        let Some(count) = self.verdict("read", got, Ok(()))? else { return Ok(()) };
        same_bytes(data, &buf[..count])?;
        self.verdict("close", closed, Ok(())).map(drop)
    }
}
