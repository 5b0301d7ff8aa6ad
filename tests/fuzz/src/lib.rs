//! What is fuzzed: the host's own files, and for each target a function that says what must hold for any bytes.

#![allow(dead_code, unused_imports, missing_docs, reason = "only a part of each of the host's files is used")]

#[path = "../../../host/src/config/mod.rs"]
pub mod config;
#[path = "../../../host/src/record/mod.rs"]
pub mod record;
#[path = "../../../host/src/shell.rs"]
pub mod shell;

pub mod dead_letters;
pub mod pipeline;
pub mod plugin;
pub mod targets;

/// Stands in for the Kafka client, which configuration files ask about single properties.
pub mod kafka {
    pub const OWN_CONSUMER_PROPERTIES: &[&str] = &["bootstrap.servers", "group.id"];
    pub const OWN_PRODUCER_PROPERTIES: &[&str] = &["bootstrap.servers", "enable.idempotence"];

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum PropertyFault {
        Unknown,
        Invalid(String),
    }

    pub fn property_fault(name: &str, value: &str) -> Option<PropertyFault> {
        match value {
            "" => Some(PropertyFault::Invalid(format!("{name} takes something"))),
            _ if name.contains("unknown") => Some(PropertyFault::Unknown),
            _ => None,
        }
    }
}

/// Stands in for the embedded tables, of which configuration files know the types of columns.
pub mod sqlite {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ColumnType {
        Text,
        Integer,
    }

    impl ColumnType {
        pub fn by_name(name: &str) -> Option<Self> {
            match name {
                "text" => Some(Self::Text),
                "integer" => Some(Self::Integer),
                _ => None,
            }
        }

        pub fn names() -> String {
            "text, integer".to_owned()
        }
    }
}
