//! The report: all figures beside the paper's.

mod beyond;
mod exec;
mod figures;
mod frame;
mod plots;
mod table;

use std::fs;
use std::io;
use std::path::Path;

use crate::numbers::Results;
use crate::record::Line;

/// Where text goes, and plots.
struct Page<'a> {
    results: Results<'a>,
    text: String,
    /// The folder of the plots, and its name as seen from the text.
    plots: &'a Path,
    link: String,
}

/// Writes `path`, and plots into the folder of the same name without the ending.
pub fn write(lines: &[Line], path: &Path) -> io::Result<()> {
    let folder = path.with_extension("");
    fs::create_dir_all(&folder)?;
    let link = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut page = Page { results: Results(lines), text: String::new(), plots: &folder, link };
    page.head();
    page.targets();
    page.interfaces();
    page.throughput()?;
    page.warm();
    page.waits();
    page.costs()?;
    page.stash()?;
    page.mapped()?;
    page.latency();
    page.threads()?;
    page.start();
    page.layers();
    page.iozone();
    page.texts();
    page.elsewhere();
    page.shortfalls();
    page.method();
    // One empty line between paragraphs, none at the end.
    while page.text.contains("\n\n\n") {
        page.text = page.text.replace("\n\n\n", "\n\n");
    }
    fs::write(path, page.text.trim_end().to_owned() + "\n")
}

impl Page<'_> {
    fn say(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
    }

    fn heading(&mut self, title: &str) {
        self.say(format!("\n\n## {title}\n\n"));
    }

    /// A plot under `name`, drawn by `draw`.
    fn plot(
        &mut self,
        name: &str,
        alternative: &str,
        draw: impl FnOnce(&Path) -> Result<(), Box<dyn std::error::Error>>,
    ) -> io::Result<()> {
        let path = self.plots.join(format!("{name}.svg"));
        draw(&path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        let link = format!("\n![{alternative}]({}/{name}.svg)\n", self.link);
        self.say(link);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::interface::Interface;
    use crate::numbers::tests::line;
    use crate::record::{Line, Missing, Run};

    #[test]
    fn a_report_of_little_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evaluation.md");
        let lines = [
            Line::Run(Run {
                machine: vec![("kernel".into(), "Linux x".into())],
                command: "cargo evaluate".into(),
                remarks: vec!["a test".into()],
            }),
            line("throughput", "small-read", Interface::Direct, &[10.0, 12.0]),
            line("throughput", "small-read", Interface::Defuse, &[20.0, 24.0]),
            line("throughput", "small-read", Interface::Fuse, &[100.0, 120.0]),
            Line::Missing(Missing {
                what: "libfuse-hp".into(),
                at: String::new(),
                reason: "it is not there".into(),
            }),
        ];
        write(&lines, &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // Here and in the paper, side by side.
        assert!(text.contains("| small-read | 50 (50-50) | 51 |"), "{text}");
        assert!(text.contains("passthrough_hp") && text.contains("it is not there"), "{text}");
        assert!(text.contains("What falls short"), "{text}");
        assert!(text.contains("evaluation/throughput-tmpfs.svg"), "{text}");
        let plot = std::fs::read_to_string(folder.path().join("evaluation/throughput-tmpfs.svg")).unwrap();
        assert!(plot.contains("<svg") && plot.contains("<rect"), "{plot}");
    }

    #[test]
    fn a_report_of_nothing_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evaluation.md");
        write(&[], &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("not measured"), "{text}");
    }
}
