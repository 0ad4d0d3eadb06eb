//! One entry of the table in 64 bits: which description, its close-on-exec flag, how many readers in flight.
#![forbid(unsafe_code)]

/// Descriptions are aligned to this many bytes, so that the low bits of their addresses are free.
pub(crate) const ALIGNMENT: usize = 64;

/// Addresses of user space on x86-64 stay below this, unless a program asks `mmap` for more by a hint above it.
const ADDRESS_LIMIT: usize = 1 << 47;

/// 22 bits hold every thread Linux can run at once (`PID_MAX_LIMIT`, 2^22).
const READER_BITS: u32 = 22;

/// Added to a description's own count for each entry that holds it: more than the readers an entry can count.
pub(crate) const ENTRY_WEIGHT: u64 = 1 << READER_BITS;

/// From this many readers on, a new reader moves its count from the entry to the description. Half of what fits:
/// the other half is room for readers that are between these two steps. (In the model checker: from the second reader on.)
pub(crate) const CROWDED: u64 = if cfg!(loom) { 1 } else { ENTRY_WEIGHT / 2 };

const READERS: u64 = ENTRY_WEIGHT - 1;
const CLOEXEC: u64 = 1 << READER_BITS;
const ADDRESS_SHIFT: u32 = READER_BITS + 1 - ALIGNMENT.trailing_zeros();

/// From the low end: 22 bits readers in flight, 1 bit close-on-exec, 41 bits address of the description / 64.
/// The address 0 stands for "not open"; then the flag is clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    /// What is added to an entry to count one more reader.
    pub(crate) const ONE_READER: u64 = 1;

    /// The entry of an FD that is not open, with no reader in flight.
    pub(crate) const EMPTY: Self = Self(0);

    /// The entry of an open FD, with no reader in flight.
    pub(crate) fn open(address: usize, cloexec: bool) -> Self {
        debug_assert!(Self::can_hold(address) && address != 0);
        Self((address as u64) << ADDRESS_SHIFT).with_cloexec(cloexec)
    }

    /// Whether this address fits: aligned and in the usual part of user space.
    pub(crate) fn can_hold(address: usize) -> bool {
        address < ADDRESS_LIMIT && address.is_multiple_of(ALIGNMENT)
    }

    /// Address of the description, 0 if the FD is not open.
    pub(crate) fn address(self) -> usize {
        (self.0 >> ADDRESS_SHIFT) as usize & !(ALIGNMENT - 1)
    }

    /// Whether the FD is open.
    pub(crate) fn is_open(self) -> bool {
        self.address() != 0
    }

    /// The close-on-exec flag.
    pub(crate) fn cloexec(self) -> bool {
        self.0 & CLOEXEC != 0
    }

    /// The same with this close-on-exec flag.
    pub(crate) fn with_cloexec(self, cloexec: bool) -> Self {
        Self(if cloexec { self.0 | CLOEXEC } else { self.0 & !CLOEXEC })
    }

    /// Readers in flight that this entry counts.
    pub(crate) fn readers(self) -> u64 {
        self.0 & READERS
    }

    /// The same with no reader in flight.
    pub(crate) fn without_readers(self) -> Self {
        Self(self.0 & !READERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::lowest(ALIGNMENT)]
    #[case::highest(ADDRESS_LIMIT - ALIGNMENT)]
    fn fields_do_not_overlap(
        #[case] address: usize,
        #[values(false, true)] cloexec: bool,
        #[values(0, 1, READERS)] readers: u64,
    ) {
        let word = Word(Word::open(address, cloexec).0 + readers * Word::ONE_READER);
        assert_eq!((word.address(), word.cloexec(), word.readers()), (address, cloexec, readers));
        assert_eq!(word.without_readers(), Word::open(address, cloexec));
        assert_eq!(word.with_cloexec(!cloexec).cloexec(), !cloexec);
        assert_eq!(word.with_cloexec(!cloexec).address(), address);
    }

    #[rstest]
    #[case(0, true)]
    #[case(1, false)]
    #[case(ALIGNMENT, true)]
    #[case(ALIGNMENT + 8, false)]
    #[case(ADDRESS_LIMIT - ALIGNMENT, true)]
    #[case(ADDRESS_LIMIT, false)]
    fn only_aligned_addresses_of_user_space_fit(#[case] address: usize, #[case] fits: bool) {
        assert_eq!(Word::can_hold(address), fits);
    }

    #[test]
    fn readers_of_an_empty_entry_do_not_open_it() {
        assert!(!Word::EMPTY.is_open());
        assert!(!Word(READERS).is_open());
    }
}
