//! Packed little-endian tables, read in place.

/// A table of `u32`.
#[derive(Debug, Clone, Copy)]
pub(super) struct U32s<'a>(&'a [[u8; 4]]);

impl<'a> U32s<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    #[inline]
    pub(super) fn get(self, index: usize) -> u32 {
        self.0.get(index).map_or_else(|| malformed("a table of u32 is too short"), |bytes| u32::from_le_bytes(*bytes))
    }
}

/// A table of eight bytes a row.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a>(&'a [[u8; 8]]);

impl<'a> Words<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    #[inline]
    pub(super) fn s64(self, row: usize) -> i64 {
        i64::from_le_bytes(self.get(row))
    }

    #[inline]
    pub(super) fn f64(self, row: usize) -> f64 {
        f64::from_le_bytes(self.get(row))
    }

    #[inline]
    fn get(self, row: usize) -> [u8; 8] {
        self.0.get(row).copied().unwrap_or_else(|| malformed("a table of eight bytes a row is too short"))
    }
}

/// Cells of text: offsets into one checked text.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    offsets: U32s<'a>,
    data: &'a str,
}

impl<'a> Texts<'a> {
    pub(super) fn open(offsets: &'a [u8], data: &'a [u8]) -> Self {
        let data = std::str::from_utf8(data).unwrap_or_else(|_| malformed("a text column is not UTF-8"));
        Self { offsets: U32s::open(offsets), data }
    }

    #[inline]
    pub(super) fn get(self, row: usize) -> &'a str {
        let (start, end) = (self.offsets.get(row) as usize, self.offsets.get(row + 1) as usize);
        self.data.get(start..end).unwrap_or_else(|| malformed("a text offset lies outside of its column"))
    }
}

/// Cells of bytes: offsets into one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Blobs<'a> {
    offsets: U32s<'a>,
    data: &'a [u8],
}

impl<'a> Blobs<'a> {
    pub(super) fn open(offsets: &'a [u8], data: &'a [u8]) -> Self {
        Self { offsets: U32s::open(offsets), data }
    }

    #[inline]
    pub(super) fn get(self, row: usize) -> &'a [u8] {
        let (start, end) = (self.offsets.get(row) as usize, self.offsets.get(row + 1) as usize);
        self.data.get(start..end).unwrap_or_else(|| malformed("an offset of bytes lies outside of its column"))
    }
}

/// Cells of text with few distinct values.
#[derive(Debug)]
pub struct Symbols<'a> {
    indexes: U32s<'a>,
    dictionary: Vec<&'a str>,
}

impl<'a> Symbols<'a> {
    pub(super) fn open(indexes: &'a [u8], data: &'a [u8]) -> Self {
        let count = U32s::open(data).get(0) as usize;
        let bytes_at = 4 + 4 * (count + 1);
        let (offsets, bytes) =
            data.split_at_checked(bytes_at).unwrap_or_else(|| malformed("a dictionary is shorter than its offsets"));
        let entries = Texts::open(offsets.get(4..).unwrap_or_default(), bytes);
        Self { indexes: U32s::open(indexes), dictionary: (0..count).map(|entry| entries.get(entry)).collect() }
    }

    #[inline]
    pub(super) fn get(&self, row: usize) -> &'a str {
        let index = self.indexes.get(row) as usize;
        self.dictionary.get(index).copied().unwrap_or_else(|| malformed("a symbol lies outside of its dictionary"))
    }
}

/// The host broke the contract of `wit/`; there is nothing that the plugin could do.
#[cold]
#[expect(clippy::panic, reason = "a trap is the only answer to a host that delivers broken tables")]
pub(super) fn malformed(what: &str) -> ! {
    panic!("the host delivered a malformed batch: {what}")
}
