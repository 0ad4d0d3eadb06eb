//! Reads and writes by FD of files that may be mapped, here or in other processes.

use std::ops::Range;

use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;
use uffd_pager::{Changed, View};

use super::{Key, key_of, lock, source, view, view_locked};
use crate::file::OpenFile;

/// Reads at `offset`: resident pages where there are any, by `plugin` where there are none. `plugin` reads `length` bytes from an offset to a
/// place in the buffer, as does `resident`, which returns nothing where pages are resident no more.
pub fn read(
    view: &View,
    offset: u64,
    length: usize,
    resident: impl Fn(u64, Range<usize>) -> Result<Option<usize>, Errno>,
    plugin: impl Fn(u64, Range<usize>) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let end = offset.saturating_add(length as u64).min(view.length());
    let mut at = offset;
    while at < end {
        let (upto, cached) = match view.resident(at..end) {
            Some(run) if run.start == at => (run.end, true),
            Some(run) => (run.start, false),
            None => (end, false),
        };
        let place = (at - offset) as usize..(upto - offset) as usize;
        let read = if cached { resident(at, place) } else { plugin(at, place).map(Some) };
        match read {
            Ok(Some(0)) => break,
            Ok(Some(count)) => at += count as u64,
            // Given back since it was looked for.
            Ok(None) => {}
            Err(_) if at > offset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(at.saturating_sub(offset) as usize)
}

/// Writes by `write`, which returns the count and the end of what it has written, and shows that to who maps the file: `written` copies bytes
/// of what was written from a place in it.
pub fn write(
    file: &OpenFile,
    write: impl FnOnce() -> Result<(usize, u64), Errno>,
    written: impl Fn(usize, &mut [u8]) -> Result<(), Errno>,
) -> Result<(usize, u64), Errno> {
    let Some(key) = key_of(file)? else { return write() };
    let process = file.process();
    let alone = lock(process, key)?;
    let Some(view) = view_locked(process, Some(file), key, &alone)? else { return write() };
    let start = std::cell::Cell::new(u64::MAX);
    let again = |at: u64, buffer: &mut [u8]| {
        match at.checked_sub(start.get()) {
            Some(place) => written(place as usize, buffer).map(|()| buffer.len()),
            // Between the former end and the first byte written. Most often a hole; but a process may have been killed after the plugin had
            // its bytes and before anybody else knew.
            None => match source::with_reader(file, |read| read(at, buffer)) {
                // Who may only write takes it for a hole.
                Err(Errno::ACCESS) => Ok(0),
                read => read,
            },
        }
    };
    view.change(again, || {
        let (count, end) = write()?;
        start.set(end - count as u64);
        // Nothing written past the end leaves it where it is.
        let length = if count == 0 { view.length() } else { view.length().max(end) };
        Ok(((count, end), Changed { bytes: end - count as u64..end, length }))
    })
}

/// Changes the file's length by `change`, which does it in the plugin.
pub fn set_length<T>(
    file: Option<&OpenFile>,
    process: &'static crate::process::Process,
    key: Key,
    length: u64,
    change: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let alone = lock(process, key)?;
    let Some(view) = view_locked(process, file, key, &alone)? else { return change() };
    let zeros = |_: u64, buffer: &mut [u8]| {
        buffer.fill(0);
        Ok(buffer.len())
    };
    view.change(zeros, || Ok((change()?, Changed { bytes: 0..0, length })))
}

/// Changes the file by `change`, in the plugin, which says what of it may be different then (its length is asked).
pub fn change<T>(
    file: &OpenFile,
    change: impl FnOnce() -> Result<(T, Range<u64>), Errno>,
) -> Result<T, Errno> {
    let Some(key) = key_of(file)? else { return change().map(|(value, _)| value) };
    let process = file.process();
    let alone = lock(process, key)?;
    let Some(view) = view_locked(process, Some(file), key, &alone)? else {
        return change().map(|(value, _)| value);
    };
    // What the plugin moves or copies must be what the file holds.
    source::with_writer(file, |write| view.write_back(write).map_err(|error| error.errno()))?;
    source::with_reader(file, |read| {
        view.change(read, || {
            let (value, bytes) = change()?;
            let length = file.with_handle(Instance::fgetattr)?.st_size as u64;
            Ok((value, Changed { bytes, length }))
        })
    })
}

/// Hands what is dirty of the file to the plugin, before that is asked about what it holds.
pub fn settle(file: &OpenFile) -> Result<(), Errno> {
    if super::generation(file.process()) == 0 {
        return Ok(());
    }
    match (key_of(file)?, view(file)?) {
        (Some(key), Some(_)) => super::live::sync(file.process(), file, key),
        _ => Ok(()),
    }
}

/// The identity of what has these attributes, if it may be mapped now.
pub fn maybe_mapped(
    process: &crate::process::Process,
    mount: usize,
    attributes: &plugin_abi::stat,
) -> Option<Key> {
    if super::generation(process) == 0 || attributes.st_mode & sys::S_IFMT != sys::S_IFREG {
        return None;
    }
    Key::of(mount, attributes)
}
