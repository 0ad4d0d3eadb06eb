//! Extended attributes of a node.

use crate::node::Node;
use plugin_abi::{CStr, Errno, Result};

/// Limits of the kernel (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const NAME_MAX: usize = 255;
const SIZE_MAX: usize = 65536;

pub(crate) fn get(node: &Node, name: &CStr, value: &mut [u8]) -> Result<usize> {
    check_name(node, name, Errno::ENODATA)?;
    let inner = node.read();
    let found = inner.xattr(name)?;
    copy_out(found, value)
}

pub(crate) fn set(node: &Node, name: &CStr, value: &[u8], flags: i32) -> Result<()> {
    check_name(node, name, Errno::EPERM)?;
    if value.len() > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut inner = node.write();
    match inner.xattrs.contains_key(name) {
        true if flags & libc::XATTR_CREATE != 0 => return Err(Errno::EEXIST),
        false if flags & libc::XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
        _ => {}
    }
    inner.xattrs.insert(name.to_owned(), value.to_owned());
    inner.ctime = crate::node::now();
    Ok(())
}

pub(crate) fn list(node: &Node, list: &mut [u8]) -> Result<usize> {
    let inner = node.read();
    let names: Vec<u8> = inner.xattrs.keys().flat_map(|name| name.to_bytes_with_nul()).copied().collect();
    copy_out(&names, list)
}

pub(crate) fn remove(node: &Node, name: &CStr) -> Result<()> {
    check_name(node, name, Errno::EPERM)?;
    let mut inner = node.write();
    inner.xattrs.remove(name).ok_or(Errno::ENODATA)?;
    inner.ctime = crate::node::now();
    Ok(())
}

/// `user.` only on files and directories, `trusted.` and `security.` everywhere; ACLs are not served.
fn check_name(node: &Node, name: &CStr, not_here: Errno) -> Result<()> {
    let bytes = name.to_bytes();
    if bytes.len() > NAME_MAX {
        return Err(Errno::ERANGE);
    }
    let known = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| bytes.strip_prefix(*prefix).is_some_and(|rest| !rest.is_empty()));
    if !known {
        return Err(Errno::EOPNOTSUPP);
    }
    if bytes.starts_with(b"user.") && !matches!(node.kind, libc::S_IFREG | libc::S_IFDIR) {
        return Err(not_here);
    }
    Ok(())
}

fn copy_out(from: &[u8], to: &mut [u8]) -> Result<usize> {
    if to.is_empty() {
        return Ok(from.len());
    }
    to.get_mut(..from.len()).ok_or(Errno::ERANGE)?.copy_from_slice(from);
    Ok(from.len())
}
