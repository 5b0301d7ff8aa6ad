//! A new plugin that builds, tests and runs as it is.
//!
//! In: a name, a language and a place. Out: a directory with a crate or a module, cases and a README. It uses the SDK where
//! that lies: in the repository that the plugin is made in, where it was told, or in a copy beside it, which this binary
//! carries. Never writes into a directory that holds anything.

use std::path::{Path, PathBuf};

use super::build::{Language, python};

/// The SDK's crates: path and content. Made by `build.rs`.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk_files.rs"));

/// Where the copy of the SDK goes, in the plugin's directory.
pub const SDK_COPY: &str = ".pelton-sdk";

/// The files of a plugin in Rust: path and content, with `{{…}}` to be filled in.
const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../templates/plugin/Cargo.toml.template")),
    ("src/lib.rs", include_str!("../../templates/plugin/lib.rs.template")),
    ("plugin.yaml", include_str!("../../templates/plugin/plugin.yaml")),
    ("README.md", include_str!("../../templates/plugin/README.md.template")),
    (".gitignore", include_str!("../../templates/plugin/gitignore")),
];

/// The files of a plugin in Python.
const PYTHON: &[(&str, &str)] = &[
    ("plugin.py", include_str!("../../templates/python/plugin.py.template")),
    ("test_plugin.py", include_str!("../../templates/python/test_plugin.py.template")),
    ("pyproject.toml", include_str!("../../templates/python/pyproject.toml.template")),
    ("plugin.yaml", include_str!("../../templates/python/plugin.yaml")),
    ("README.md", include_str!("../../templates/python/README.md.template")),
    (".gitignore", include_str!("../../templates/python/gitignore")),
];

/// What both do is the same, and so are their cases.
const CASES: &[(&str, &str)] = &[
    ("cases/sizes/input.jsonl", include_str!("../../templates/plugin/cases/sizes/input.jsonl")),
    ("cases/sizes/config.yaml", include_str!("../../templates/plugin/cases/sizes/config.yaml")),
    ("cases/sizes/expected.jsonl", include_str!("../../templates/plugin/cases/sizes/expected.jsonl")),
];

/// A plugin that was made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Scaffold {
    /// The name.
    pub name: String,
    /// What it is written in.
    pub language: Language,
    /// Its directory.
    pub dir: PathBuf,
    /// What it was given, relative to its directory.
    pub files: Vec<String>,
    /// The SDK that it uses, from its directory.
    pub sdk: String,
}

/// Why a plugin cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// The name is no name.
    #[error("`{name}` cannot be a plugin's name: {problem}{}", suggestion(name))]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Something is there.
    #[error("{dir}: there is something here already; a plugin is made in a directory of its own")]
    Occupied {
        /// Where.
        dir: PathBuf,
    },
    /// `--sdk` points elsewhere.
    #[error("{dir}: this is not the SDK: it has no {lacks}")]
    NotTheSdk {
        /// Where.
        dir: PathBuf,
        /// What it would have.
        lacks: &'static str,
    },
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Makes the plugin `parent/name`. `sdk` is the directory of the language's SDK, where it is not to be looked for.
///
/// # Errors
/// A bad name, something in the way, or a file that cannot be written.
pub fn create(name: &str, language: Language, parent: &Path, sdk: Option<&Path>) -> Result<Scaffold, ScaffoldError> {
    check_name(name, language)?;
    let parent = std::path::absolute(parent).map_err(|source| ScaffoldError::Io { path: parent.into(), source })?;
    let dir = parent.join(name);
    if std::fs::read_dir(&dir).map_or(dir.exists(), |mut entries| entries.next().is_some()) {
        return Err(ScaffoldError::Occupied { dir });
    }
    let mut files: Vec<(String, String)> = Vec::new();
    let sdk = match sdk {
        Some(sdk) => {
            let sdk = std::path::absolute(sdk).map_err(|source| ScaffoldError::Io { path: sdk.into(), source })?;
            if !is_sdk(language, &sdk) {
                return Err(ScaffoldError::NotTheSdk { dir: sdk, lacks: language.sdk_mark() });
            }
            sdk.display().to_string()
        }
        None => match sdk_of_the_repository(language, &dir) {
            Some(sdk) => sdk,
            None => {
                let copied = match language {
                    Language::Rust => {
                        SDK.iter().map(|(path, text)| (format!("{SDK_COPY}/{path}"), *text)).collect::<Vec<_>>()
                    }
                    Language::Python => {
                        python::SDK.iter().map(|(path, text)| (format!("{SDK_COPY}/python/{path}"), *text)).collect()
                    }
                };
                files.extend(copied.into_iter().map(|(path, text)| (path, text.to_owned())));
                format!("{SDK_COPY}/{}", language.sdk_dir())
            }
        },
    };
    let sdk_note = if files.is_empty() {
        String::new()
    } else {
        format!("\n`{SDK_COPY}/` is a copy of the SDK that belongs to the `pelton` which made this plugin.\n")
    };
    let workspace = match is_member_of_a_workspace(&parent) {
        true => String::new(),
        false if files.is_empty() => "\n[workspace]\n".to_owned(),
        false => format!("\n[workspace]\nexclude = [\"{SDK_COPY}\"]\n"),
    };
    let filled = |text: &str| {
        let text = text.replace("{{name}}", name).replace("{{sdk}}", &sdk);
        let text = text.replace("{{sdk_note}}", &sdk_note).replace("{{workspace}}", &workspace);
        format!("{}\n", text.trim_end())
    };
    let template = match language {
        Language::Rust => RUST,
        Language::Python => PYTHON,
    };
    let own: Vec<String> = template.iter().chain(CASES).map(|(path, _)| (*path).to_owned()).collect();
    files.extend(template.iter().chain(CASES).map(|(path, text)| ((*path).to_owned(), filled(text))));
    for (path, text) in &files {
        write(&dir.join(path), text)?;
    }
    Ok(Scaffold { name: name.to_owned(), language, dir, files: own, sdk })
}

fn write(path: &Path, text: &str) -> Result<(), ScaffoldError> {
    let dir = path.parent().expect("every file is written below a directory");
    let failed = |source| ScaffoldError::Io { path: path.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    std::fs::write(path, text).map_err(failed)
}

/// A name is a crate's, a directory's and a metric's label.
fn check_name(name: &str, language: Language) -> Result<(), ScaffoldError> {
    const KEYWORDS: [&str; 38] = [
        "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false", "fn",
        "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static",
        "struct", "super", "trait", "true", "type", "unsafe", "use", "where", "while", "gen", "self",
    ];
    const CRATES: [&str; 8] = ["alloc", "core", "proc-macro", "std", "test", "serde", "serde-json", "pelton-sdk"];
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > 64 {
        "it is longer than 64 characters"
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        "it begins with a lower-case letter"
    } else if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        "it is made of lower-case letters, digits and `-`"
    } else if name.ends_with('-') || name.contains("--") {
        "each `-` stands between letters or digits"
    } else if language == Language::Rust && KEYWORDS.contains(&name) {
        "it is a word of the language Rust"
    } else if language == Language::Rust && CRATES.contains(&name) {
        "there is a crate of this name that every plugin uses"
    } else {
        return Ok(());
    };
    Err(ScaffoldError::Name { name: name.to_owned(), problem })
}

/// `; did you mean `my-plugin`?`
fn suggestion(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let near = words.join("-");
    if near != name && check_name(&near, Language::Rust).is_ok() {
        format!("; did you mean `{near}`?")
    } else {
        String::new()
    }
}

fn is_sdk(language: Language, dir: &Path) -> bool {
    match language {
        Language::Rust => std::fs::read_to_string(dir.join("Cargo.toml"))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "name = \"pelton-sdk\"")),
        Language::Python => dir.join("pelton_sdk/__init__.py").is_file(),
    }
}

/// The path from a plugin's directory to the SDK of the repository around it.
fn sdk_of_the_repository(language: Language, dir: &Path) -> Option<String> {
    let sdk = format!("sdk/{}", language.sdk_dir());
    let above = dir.ancestors().skip(1).position(|above| is_sdk(language, &above.join(&sdk)))?;
    Some(format!("{}{sdk}", "../".repeat(above + 1)))
}

impl Language {
    /// The SDK's directory under `sdk/`.
    fn sdk_dir(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
        }
    }

    /// By what the SDK is known.
    fn sdk_mark(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml of the crate pelton-sdk",
            Self::Python => "package pelton_sdk",
        }
    }
}

/// Whether the directory is a Cargo workspace that takes in every directory below it.
fn is_member_of_a_workspace(parent: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(parent.join("Cargo.toml")) else { return false };
    let mut lines = text.lines().map(str::trim);
    lines.any(|line| line == "[workspace]")
        && text.lines().any(|line| line.trim_start().starts_with("members") && line.contains("\"*\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: PathBuf) -> String {
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn names_are_checked_and_better_ones_suggested() {
        for good in ["hello", "shop-orders", "a1", "x-2-y"] {
            check_name(good, Language::Rust).expect(good);
        }
        for bad in ["", "-a", "a-", "a--b", "Hello", "a_b", "a b", "2d", "../x", "ünï", "match", "std", "pelton-sdk"]
        {
            check_name(bad, Language::Rust).expect_err(bad);
        }
        let text = check_name("My Plugin_2", Language::Rust).expect_err("not a name").to_string();
        assert!(text.ends_with("did you mean `my-plugin-2`?"), "{text}");
        check_name("match", Language::Python).expect("it is no crate's name");
        assert!(!check_name("2d", Language::Rust).expect_err("not a name").to_string().contains("did you mean"));
    }

    #[test]
    fn a_plugin_far_from_the_repository_brings_its_sdk() {
        let root = tempfile::tempdir().expect("a directory");
        let made = create("hello", Language::Rust, root.path(), None).expect("made");
        assert_eq!(made.sdk, ".pelton-sdk/rust");
        let manifest = read(made.dir.join("Cargo.toml"));
        assert!(manifest.contains("name = \"hello\""), "{manifest}");
        assert!(manifest.contains("pelton-sdk = { path = \".pelton-sdk/rust\" }"), "{manifest}");
        assert!(manifest.contains("exclude = [\".pelton-sdk\"]"), "{manifest}");
        assert!(is_sdk(Language::Rust, &made.dir.join(&made.sdk)));
        let workspace = read(made.dir.join(".pelton-sdk/Cargo.toml"));
        assert!(workspace.contains("wit-bindgen = ") && !workspace.contains("rdkafka"), "{workspace}");
        for file in &made.files {
            assert!(!read(made.dir.join(file)).contains("{{"), "{file}");
        }
    }

    #[test]
    fn a_plugin_in_python_brings_its_sdk_and_the_same_cases() {
        let root = tempfile::tempdir().expect("a directory");
        let made = create("hello", Language::Python, root.path(), None).expect("made");
        assert_eq!(made.sdk, ".pelton-sdk/python");
        assert!(is_sdk(Language::Python, &made.dir.join(&made.sdk)));
        assert!(read(made.dir.join("pyproject.toml")).contains("pythonpath = [\".\", \".pelton-sdk/python\"]"));
        for file in &made.files {
            assert!(!read(made.dir.join(file)).contains("{{"), "{file}");
        }
        let rust = create("other", Language::Rust, root.path(), None).expect("made");
        let cases = |made: &Scaffold| CASES.iter().map(|(path, _)| read(made.dir.join(path))).collect::<Vec<_>>();
        assert_eq!(cases(&made), cases(&rust));
        let nowhere = create("third", Language::Python, root.path(), Some(root.path())).expect_err("no SDK there");
        assert!(nowhere.to_string().contains("no package pelton_sdk"), "{nowhere}");
        std::fs::create_dir_all(root.path().join("sdk/python/pelton_sdk")).expect("a directory");
        std::fs::write(root.path().join("sdk/python/pelton_sdk/__init__.py"), "").expect("written");
        let inside = create("inside", Language::Python, root.path(), None).expect("made");
        assert_eq!(inside.sdk, "../sdk/python");
    }

    #[test]
    fn a_plugin_in_the_repository_uses_the_sdk_there() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("sdk/rust")).expect("a directory");
        std::fs::write(root.path().join("sdk/rust/Cargo.toml"), "[package]\nname = \"pelton-sdk\"\n").expect("written");
        let plugins = root.path().join("plugins");
        std::fs::create_dir(&plugins).expect("a directory");
        let made = create("hello", Language::Rust, &plugins, None).expect("made");
        assert_eq!(made.sdk, "../../sdk/rust");
        assert!(!made.dir.join(SDK_COPY).exists());
        assert!(read(made.dir.join("Cargo.toml")).contains("\n[workspace]\n"));
        std::fs::write(plugins.join("Cargo.toml"), "[workspace]\nmembers = [\"*\"]\n").expect("written");
        let member = create("member", Language::Rust, &plugins, None).expect("made");
        assert!(!read(member.dir.join("Cargo.toml")).contains("[workspace]"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("hello")).expect("a directory");
        std::fs::write(root.path().join("hello/notes"), "mine").expect("written");
        let text = create("hello", Language::Rust, root.path(), None).expect_err("occupied").to_string();
        assert!(text.contains("already"), "{text}");
        assert_eq!(std::fs::read_dir(root.path().join("hello")).expect("readable").count(), 1);
        create("other", Language::Rust, root.path(), Some(root.path())).expect_err("no SDK there");
    }
}
