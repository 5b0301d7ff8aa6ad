//! The types that the engine generates from `wit/types.wit`, as far as the checker uses them.

pub mod types {
    pub struct Output {
        pub rows: Selection,
        pub data: Vec<u8>,
        pub set_fields: Vec<SetColumn>,
        pub failures: Vec<Failure>,
    }

    pub enum Selection {
        All,
        Kept(Vec<u8>),
        Edits(Vec<u8>),
    }

    pub struct SetColumn {
        pub state: Vec<u8>,
        pub values: Vec<u8>,
        pub data: Vec<u8>,
    }

    pub struct Failure {
        pub row: u32,
        pub kind: FailureKind,
        pub code: String,
        pub message: String,
    }

    pub enum FailureKind {
        Reject,
        Retry(u32),
        Skip,
    }
}
