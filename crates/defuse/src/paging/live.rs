//! The files that this process has mapped.

use std::ops::Range;
use std::sync::Arc;

use fdtable::Ref;
use interpose::set_alert;
use linux_raw_sys::general as sys;
use plugin_abi::Instance;
use rustix::io::Errno;
use uffd_pager::{Host, MapRequest, Mode, PAGE, Pager, Place, Protection, Sharing, Source, View};

use super::source::Files;
use super::{Key, Paging, lock, store, view_locked};
use crate::file::OpenFile;
use crate::path_bytes::PathBytes;
use crate::process::Process;
use crate::{nofile, private_fd, shadow, trace};

/// A file that is mapped here.
pub struct Live {
    key: Key,
    source: Source,
    files: Arc<Files>,
}

impl Paging {
    /// The pager, made now if need be. `None`: this kernel has none for us. For who has the list, so that no fork comes in between.
    fn pager_or_new(&self, process: &'static Process, _: &mut Vec<Live>) -> Option<&Pager> {
        let new = || {
            let reclaim = Box::new(move |wanted| super::reclaim::from_session(process, wanted));
            nofile::with_room(|| {
                Pager::with_host(Mode::Signal, Host { home: at_home, reclaim }).map_err(|error| {
                    trace::debug(format_args!("files cannot be mapped here: {error}"));
                    error.errno()
                })
            })
        };
        self.pager.get_or_init(|| new().ok()).as_ref()
    }
}

/// The program does not meet our userfaultfd.
#[allow(unsafe_code)]
fn at_home(fd: std::os::fd::OwnedFd) -> std::os::fd::OwnedFd {
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
    match private_fd::duplicate(fd.as_raw_fd()) {
        Ok(private) => {
            crate::native::close(fd.into_raw_fd());
            // SAFETY: just made, and known to nobody else.
            unsafe { std::os::fd::OwnedFd::from_raw_fd(private) }
        }
        Err(_) => fd,
    }
}

/// Maps a file as mmap(2) does with these arguments, which have been checked against how it was opened. `None`: it cannot be done here.
#[allow(unsafe_code)]
pub fn map(
    process: &'static Process,
    file: &Ref<'static, OpenFile>,
    args: [u64; 6],
) -> Result<Option<u64>, Errno> {
    let [address, length, protection, flags, _, offset] = args;
    let (address, length, flags) = (address as usize, length as usize, flags as u32);
    let Some(key) = super::key_of(file)? else { return Ok(None) };
    let sharing = match flags & sys::MAP_TYPE {
        sys::MAP_PRIVATE => Sharing::Private,
        sys::MAP_SHARED_VALIDATE if flags & !KNOWN != 0 => return Err(Errno::OPNOTSUPP),
        sys::MAP_SHARED | sys::MAP_SHARED_VALIDATE => Sharing::Shared,
        _ => return Err(Errno::INVAL),
    };
    if length == 0 || !offset.is_multiple_of(PAGE as u64) {
        return Err(Errno::INVAL);
    }
    let place = if flags & sys::MAP_FIXED_NOREPLACE != 0 {
        Place::FixedNoReplace(address)
    } else if flags & sys::MAP_FIXED != 0 {
        Place::Fixed(address)
    } else if flags & sys::MAP_32BIT != 0 {
        Place::Low(address)
    } else {
        Place::Anywhere(address)
    };
    if interpose::in_vfork_child() {
        return Ok(None);
    }
    if matches!(file.form(), shadow::Form::Backing(_)) {
        // The number is the program's to close, and the mapping keeps the file open.
        shadow::disown_all(process)?;
    }
    let limit = if sharing == Sharing::Shared && !file.writable() {
        Protection::READ | Protection::EXEC
    } else {
        Protection::ALL
    };
    let protection = Protection::from_bits(protection as u32);
    // As the slot's lock, which that may take, comes before the list's.
    let path = file.path();
    let mut live = process.paging.live.lock();
    let Some(pager) = process.paging.pager_or_new(process, &mut live) else { return Ok(None) };
    let source = match attach(process, pager, &mut live, key, file, path) {
        // The plugin lent its root and not this; the session has no room for pages.
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    set_alert(true);
    let request = MapRequest { place, offset, length, protection, limit, sharing };
    // SAFETY: the program asked for it, and gives up what is at a fixed place.
    let mapped = unsafe { pager.map(&source, &request) };
    if mapped.is_ok() && EXECUTABLE.within(protection) {
        bring_in_code(pager, &source);
    }
    drop(source);
    settle(process, pager, &mut live);
    drop(live);
    let address = match mapped {
        Ok(address) => address,
        Err(error) => {
            trace::debug(format_args!("{error}"));
            return Err(error.errno());
        }
    };
    if flags & (sys::MAP_POPULATE | sys::MAP_LOCKED) != 0 && flags & sys::MAP_NONBLOCK == 0 {
        // As in the kernel, that it cannot be read is seen when it is touched.
        let memory = address..address + length;
        let _ = pager.prefault(memory, sharing == Sharing::Shared && protection.writable());
    }
    if flags & sys::MAP_LOCKED != 0 {
        crate::native::raw_call(sys::__NR_mlock, [address as u64, length as u64, 0, 0, 0, 0]);
    }
    Ok(Some(address as u64))
}

/// Code is searched for system calls as soon as it is mapped, together with all that is mapped of its file.
fn bring_in_code(pager: &Pager, source: &Source) {
    for (part, other, _) in pager.mappings(0..MEMORY_END) {
        if other.is(source) {
            // What cannot be read is not searched; running it is SIGBUS.
            let _ = pager.prefault(part, false);
        }
    }
}

/// As for [`map`], of served memory that becomes executable later.
pub fn became_executable(pager: &Pager, memory: Range<usize>) {
    pager.mappings(memory).iter().for_each(|(_, source, _)| bring_in_code(pager, source));
}

const EXECUTABLE: Protection = Protection::EXEC;
/// The end of a program's addresses.
const MEMORY_END: usize = 0x7fff_ffff_f000;

/// Flags of mmap(2) that `MAP_SHARED_VALIDATE` accepts.
const KNOWN: u32 = sys::MAP_TYPE
    | sys::MAP_FIXED
    | sys::MAP_FIXED_NOREPLACE
    | sys::MAP_DENYWRITE
    | sys::MAP_EXECUTABLE
    | sys::MAP_LOCKED
    | sys::MAP_NORESERVE
    | sys::MAP_POPULATE
    | sys::MAP_NONBLOCK
    | sys::MAP_STACK
    | sys::MAP_32BIT
    | sys::MAP_UNINITIALIZED;

/// The file as a source of the pager's: known already, or joined, or made.
fn attach(
    process: &'static Process,
    pager: &Pager,
    live: &mut Vec<Live>,
    key: Key,
    file: &Ref<'static, OpenFile>,
    path: Result<PathBytes, Errno>,
) -> Result<Source, Errno> {
    if let Some(known) = live.iter().find(|live| live.key == key) {
        known.files.add(file);
        return Ok(known.source.clone());
    }
    let alone = lock(process, key)?;
    let files = Arc::new(Files::new(file));
    let joined_before = {
        let mut joined = process.paging.joined.lock();
        let before = joined.contains(&key);
        if !before {
            joined.push(key);
        }
        before
    };
    let joined = view_locked(process, Some(file), key, &alone)?;
    let cache = if let Some(view) = joined {
        if !joined_before {
            view.forget_past();
        }
        store::open(process, key)?.ok_or(Errno::NOENT)?
    } else {
        let length = crate::serve::size_of_file(file)? as u64;
        let path = path?;
        let named = file.with_handle(Instance::fgetattr)?.st_nlink != 0;
        store::create(process, key, named.then_some(path.as_slice()), length)?
    };
    let attached = nofile::with_room(|| pager.attach(files.clone(), cache));
    let source = match attached {
        Ok(source) => source,
        Err(error) => {
            trace::debug(format_args!("{error}"));
            // If it was made for us, nobody uses it.
            let _ = view_locked(process, Some(file), key, &alone);
            return Err(error.errno());
        }
    };
    live.push(Live { key, source: source.clone(), files });
    Ok(source)
}

/// After mappings may have gone: lets go of the files that are not mapped any more. What is dirty is written back; an error comes out
/// at the next fsync or close of an FD of the file.
fn settle(process: &'static Process, pager: &Pager, live: &mut Vec<Live>) {
    let mut index = 0;
    while index < live.len() {
        if pager.maps(&live[index].source) {
            index += 1;
        } else {
            let gone = live.swap_remove(index);
            release(process, pager, gone);
        }
    }
    if !pager.is_mapping() {
        set_alert(false);
    }
}

fn release(process: &'static Process, pager: &Pager, Live { key, source, files }: Live) {
    let Ok(alone) = lock(process, key) else { return };
    if let Err(error) = pager.sync_source(&source) {
        trace::debug(format_args!("{error}"));
        files.file().keep_error(error.errno());
    }
    drop(source);
    // What was known of it is what it was while it was mapped.
    let cache = store::open(process, key);
    if let Ok(Some(cache)) = cache
        && let Ok(view) = nofile::with_room(|| View::open(cache).map_err(|error| error.errno()))
        && !view.is_used()
    {
        store::clean_up(process, Some(files.file()), key, &view);
    }
    drop(alone);
}

/// After calls that unmap; of a vfork child when it is gone, as its descriptors are not those of the memory that is let go of.
pub fn unmapped(process: &'static Process, pager: &Pager) {
    if interpose::in_vfork_child() {
        return;
    }
    let mut live = process.paging.live.lock();
    settle(process, pager, &mut live);
}

/// Calls `run` for each open file that a mapping keeps, some more than once. Where it may take locks that come before the list's: in a forked child.
pub fn for_each_file(process: &Process, mut run: impl FnMut(&OpenFile)) {
    let kept: Vec<Arc<Files>> = process.paging.live.lock().iter().map(|live| live.files.clone()).collect();
    kept.iter().flat_map(|files| files.all()).for_each(&mut run);
}

/// This process's vfork child, which may have unmapped something, is gone.
pub fn after_vfork(process: &'static Process) {
    if let Some(pager) = process.paging.pager() {
        unmapped(process, pager);
    }
}

/// Hands what was stored to the file's pages to the plugin. fsync(2) and its kin, for a file of this identity.
pub fn sync(process: &'static Process, file: &OpenFile, key: Key) -> Result<(), Errno> {
    let source = {
        let live = process.paging.live.lock();
        live.iter().find(|live| live.key == key).map(|live| live.source.clone())
    };
    if let (Some(source), Some(pager)) = (source, process.paging.pager()) {
        return pager.sync_source(&source).map_err(|error| error.errno());
    }
    match super::view(file)? {
        Some(view) if view.is_dirty() => {
            super::source::with_writer(file, |write| view.write_back(write).map_err(|error| error.errno()))
        }
        _ => Ok(()),
    }
}

/// msync(2) of a served range: what its pages hold is handed to the plugins, and they are told to keep it.
pub fn sync_memory(process: &'static Process, pager: &Pager, memory: Range<usize>) -> Result<(), Errno> {
    pager.sync(memory.clone()).map_err(|error| error.errno())?;
    let files: Vec<Arc<Files>> = {
        let sources = pager.mappings(memory);
        let live = process.paging.live.lock();
        let mapped = |live: &&Live| sources.iter().any(|(_, source, _)| source.is(&live.source));
        live.iter().filter(mapped).map(|live| live.files.clone()).collect()
    };
    files.iter().try_for_each(|files| files.fsync())
}

/// The files mapped in a range: each with its identity, an open file of it, and the bytes of it that are mapped there.
pub fn files_in(
    process: &'static Process,
    pager: &Pager,
    memory: Range<usize>,
) -> Vec<(Key, Arc<Files>, Range<u64>)> {
    let parts = pager.mappings(memory);
    let live = process.paging.live.lock();
    parts
        .into_iter()
        .filter_map(|(part, source, offset)| {
            let live = live.iter().find(|live| source.is(&live.source))?;
            Some((live.key, live.files.clone(), offset..offset + part.len() as u64))
        })
        .collect()
}

/// Before the process executes another program: that cannot know what is dirty.
pub fn write_back_all(process: &'static Process) {
    let Some(pager) = process.paging.pager() else { return };
    let live: Vec<Source> = process.paging.live.lock().iter().map(|live| live.source.clone()).collect();
    for source in live {
        if let Err(error) = pager.sync_source(&source) {
            trace::debug(format_args!("{error}"));
        }
    }
}

/// The process ends: writes back, and removes what nobody else uses.
#[allow(unsafe_code)]
pub fn leave(process: &'static Process) {
    let Some(pager) = process.paging.pager() else { return };
    if process.threaded.load(std::sync::atomic::Ordering::Acquire) {
        // Other threads may be using the memory until the end.
        return write_back_all(process);
    }
    // SAFETY: the only thread, and it does not come back.
    if let Err(error) = unsafe { pager.unmap(0..MEMORY_END) } {
        trace::debug(format_args!("{error}"));
    }
    unmapped(process, pager);
}
