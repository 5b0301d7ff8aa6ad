//! One function a target: it takes any bytes, and panics where something that must hold does not.

mod answers;
mod checkpoints;
mod configs;
mod json;
mod letters;
mod patches;

pub use answers::answers;
pub use checkpoints::checkpoints;
pub use configs::configs;
pub use json::json;
pub use letters::letters;
pub use patches::patches;

/// Takes bytes apart into what a target needs; when they end, all is zero and empty.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn long(&mut self) -> i64 {
        i64::from(self.number()) << 32 | i64::from(self.number())
    }

    /// As many bytes as the next two say, or as there are.
    fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        let (head, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        head
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.chunk()).into_owned()
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
