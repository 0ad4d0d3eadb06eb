//! The bytes of a file: sparse, in pages, so that a hole costs nothing.

use crate::space::Space;
use plugin_abi::{Errno, Result};
use std::collections::BTreeMap;

pub(crate) const PAGE: usize = 4096;

/// Pages that are found by one step in the tree.
const EXTENT_PAGES: usize = 256;
const EXTENT: u64 = (PAGE * EXTENT_PAGES) as u64;

/// As large as ext4 lets a file be, and far from overflow.
pub(crate) const MAX_SIZE: u64 = 1 << 44;

type Page = Box<[u8; PAGE]>;

#[derive(Debug, Default)]
pub(crate) struct Content {
    size: u64,
    pages: u64,
    extents: BTreeMap<u64, Vec<Option<Page>>>,
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How many pages are not holes.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Copies what is there into `buf`; holes are zeros.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let count = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let (start, len) = within_page(at, count - done);
            let target = &mut buf[done..done + len];
            match self.page(at) {
                Some(page) => target.copy_from_slice(&page[start..start + len]),
                None => target.fill(0),
            }
            done += len;
        }
        count
    }

    /// Copies `buf` in; less than all of it when the space is used up.
    pub(crate) fn write(&mut self, buf: &[u8], offset: u64, space: &Space) -> Result<usize> {
        if offset >= MAX_SIZE {
            return if buf.is_empty() { Ok(0) } else { Err(Errno::EFBIG) };
        }
        let count = buf.len().min((MAX_SIZE - offset) as usize);
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let (start, len) = within_page(at, count - done);
            let Some(page) = self.page_mut(at, space) else { break };
            page[start..start + len].copy_from_slice(&buf[done..done + len]);
            done += len;
        }
        if done == 0 && count > 0 {
            return Err(Errno::ENOSPC);
        }
        if done > 0 {
            self.size = self.size.max(offset + done as u64);
        }
        Ok(done)
    }

    /// Cuts or extends by a hole.
    pub(crate) fn set_size(&mut self, size: u64, space: &Space) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        if size < self.size {
            self.punch(size, self.size.next_multiple_of(PAGE as u64) - size, space);
        }
        self.size = size;
        Ok(())
    }

    /// Makes a range read as zeros, giving its whole pages back.
    pub(crate) fn punch(&mut self, offset: u64, len: u64, space: &Space) {
        let end = offset.saturating_add(len).min(self.size.next_multiple_of(PAGE as u64));
        let mut at = offset;
        while at < end {
            let (start, len) = within_page(at, (end - at).min(EXTENT) as usize);
            if self.page(at).is_none() {
                at = self.next_data(at).map_or(end, |data| data.max(at + len as u64));
                continue;
            }
            if len == PAGE {
                self.drop_page(at, space);
            } else if let Some(page) = self.page_mut(at, space) {
                page[start..start + len].fill(0);
            }
            at += len as u64;
        }
    }

    /// Where data begins at or after `offset`.
    pub(crate) fn seek_data(&self, offset: u64) -> Result<u64> {
        if offset >= self.size {
            return Err(Errno::ENXIO);
        }
        self.next_data(offset).filter(|&at| at < self.size).ok_or(Errno::ENXIO)
    }

    /// Where a hole begins at or after `offset`; the end of the file is one.
    pub(crate) fn seek_hole(&self, offset: u64) -> Result<u64> {
        if offset >= self.size {
            return Err(Errno::ENXIO);
        }
        let mut at = offset;
        while at < self.size && self.page(at).is_some() {
            at = (at + 1).next_multiple_of(PAGE as u64);
        }
        Ok(at.min(self.size))
    }

    /// Gives every page back.
    pub(crate) fn clear(&mut self, space: &Space) {
        space.release(self.pages);
        *self = Self::default();
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        let first = offset / EXTENT;
        self.extents.range(first..).find_map(|(&index, pages)| {
            let base = index * EXTENT;
            let from = offset.saturating_sub(base) as usize / PAGE;
            let found = pages.iter().skip(from).position(Option::is_some)?;
            Some(offset.max(base + ((from + found) * PAGE) as u64))
        })
    }

    fn page(&self, at: u64) -> Option<&[u8; PAGE]> {
        let pages = self.extents.get(&(at / EXTENT))?;
        pages.get((at % EXTENT) as usize / PAGE)?.as_deref()
    }

    fn page_mut(&mut self, at: u64, space: &Space) -> Option<&mut [u8; PAGE]> {
        let pages = self.extents.entry(at / EXTENT).or_default();
        let index = (at % EXTENT) as usize / PAGE;
        if pages.len() <= index {
            pages.resize_with(index + 1, || None);
        }
        let slot = &mut pages[index];
        if slot.is_none() {
            if !space.take() {
                return None;
            }
            self.pages += 1;
            *slot = Some(empty_page());
        }
        slot.as_deref_mut()
    }

    fn drop_page(&mut self, at: u64, space: &Space) {
        let Some(pages) = self.extents.get_mut(&(at / EXTENT)) else { return };
        let Some(slot) = pages.get_mut((at % EXTENT) as usize / PAGE) else { return };
        if slot.take().is_some() {
            self.pages -= 1;
            space.release(1);
        }
        if pages.iter().all(Option::is_none) {
            self.extents.remove(&(at / EXTENT));
        }
    }
}

/// The place in its page, and how much of `most` bytes lies there.
fn within_page(at: u64, most: usize) -> (usize, usize) {
    let start = (at % PAGE as u64) as usize;
    (start, most.min(PAGE - start))
}

fn empty_page() -> Page {
    // The array is made on the heap, zeroed by the allocator.
    match vec![0_u8; PAGE].into_boxed_slice().try_into() {
        Ok(page) => page,
        Err(_) => unreachable!("a page has PAGE bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, EXTENT, MAX_SIZE, PAGE};
    use crate::space::Space;
    use plugin_abi::Errno;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        SetSize(u64),
        Punch(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = prop_oneof![0..20_000_u64, (EXTENT - 5000)..(EXTENT + 5000)];
        prop_oneof![
            (at.clone(), proptest::collection::vec(1..255_u8, 0..9000))
                .prop_map(|(at, data)| Step::Write(at, data)),
            at.clone().prop_map(Step::SetSize),
            (at, 0..12_000_u64).prop_map(|(at, len)| Step::Punch(at, len)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_behaves_like_a_plain_vector(steps in proptest::collection::vec(step(), 1..20)) {
            let space = Space::limited(u64::MAX);
            let (mut content, mut model) = (Content::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        prop_assert_eq!(content.write(&data, at, &space), Ok(data.len()));
                        let at = at as usize;
                        if !data.is_empty() {
                            model.resize(model.len().max(at + data.len()), 0);
                            model[at..at + data.len()].copy_from_slice(&data);
                        }
                    }
                    Step::SetSize(size) => {
                        content.set_size(size, &space).unwrap();
                        model.resize(size as usize, 0);
                    }
                    Step::Punch(at, len) => {
                        content.punch(at, len, &space);
                        let end = model.len().min((at + len) as usize);
                        if (at as usize) < end {
                            model[at as usize..end].fill(0);
                        }
                    }
                }
                prop_assert_eq!(content.size(), model.len() as u64);
                let mut all = vec![7; model.len() + 10];
                prop_assert_eq!(content.read(&mut all, 0), model.len());
                prop_assert_eq!(&all[..model.len()], &model[..]);
                prop_assert_eq!(space.used(), content.pages());
                check_holes(&content, &model)?;
            }
            content.clear(&space);
            prop_assert_eq!(space.used(), 0);
        }
    }

    /// Data and holes alternate, cover the file, and what is called a hole is zero.
    fn check_holes(content: &Content, model: &[u8]) -> Result<(), TestCaseError> {
        let mut at = 0;
        while at < content.size() {
            let data = content.seek_data(at).unwrap_or(content.size());
            prop_assert!(data >= at);
            prop_assert!(model[at as usize..data as usize].iter().all(|&b| b == 0));
            if data == content.size() {
                break;
            }
            let hole = content.seek_hole(data).unwrap();
            prop_assert!(hole > data);
            at = hole;
        }
        Ok(())
    }

    #[test]
    fn a_file_far_out_costs_one_page() {
        let (space, mut content) = (Space::limited(1), Content::default());
        assert_eq!(content.write(b"x", MAX_SIZE - 1, &space), Ok(1));
        assert_eq!((content.size(), content.pages()), (MAX_SIZE, 1));
        assert_eq!(content.seek_data(0), Ok(MAX_SIZE - PAGE as u64));
        assert_eq!(content.write(b"x", MAX_SIZE, &space), Err(Errno::EFBIG));
        assert_eq!(content.write(b"x", 0, &space), Err(Errno::ENOSPC));
        content.set_size(0, &space).unwrap();
        assert_eq!(content.write(&[1; 2 * PAGE], 0, &space), Ok(PAGE));
    }
}
