//! What it takes to open a file, and what it may be used for then.

use crate::node::Node;
use crate::tree;
use plugin_abi::{Errno, Result};
use std::ffi::c_int;
use std::sync::Arc;

/// An open file and how it may be used.
#[derive(Debug)]
pub struct OpenFile {
    pub(crate) node: Arc<Node>,
    pub(crate) access: c_int,
}

impl OpenFile {
    pub(crate) fn readable(&self) -> Result<&Node> {
        if self.access == libc::O_WRONLY || self.access == libc::O_PATH {
            Err(Errno::EBADF)
        } else {
            Ok(&self.node)
        }
    }

    pub(crate) fn writable(&self) -> Result<&Node> {
        if self.access == libc::O_RDONLY || self.access == libc::O_PATH {
            Err(Errno::EBADF)
        } else {
            Ok(&self.node)
        }
    }
}

/// What open(2) checks on a file that was there before.
pub(crate) fn check_open(node: &Node, flags: c_int, access: c_int) -> Result<()> {
    if flags & libc::O_DIRECTORY != 0 && !node.is_directory() {
        // The host walks when a symbolic link is in the way.
        return Err(if node.kind == libc::S_IFLNK && access != libc::O_PATH {
            Errno::ELOOP
        } else {
            Errno::ENOTDIR
        });
    }
    if access == libc::O_PATH {
        return Ok(());
    }
    let writes = access != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    match node.kind {
        libc::S_IFLNK => return Err(Errno::ELOOP),
        libc::S_IFDIR if writes || flags & libc::O_CREAT != 0 => return Err(Errno::EISDIR),
        libc::S_IFREG | libc::S_IFDIR => {}
        _ => return Err(Errno::ENXIO),
    }
    let wanted = match access {
        libc::O_RDONLY => libc::R_OK,
        libc::O_WRONLY => libc::W_OK,
        _ => libc::R_OK | libc::W_OK,
    };
    tree::may(node, if writes { wanted | libc::W_OK } else { wanted })?;
    if flags & libc::O_TRUNC != 0 {
        node.with_content(|content, space| content.set_size(0, space))?;
    }
    Ok(())
}
