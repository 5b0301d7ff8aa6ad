//! Papers whose commands are run: the code blocks of a markdown file, in order.
//!
//! In: markdown. Out: its blocks, and the commands of shell blocks. A block that is not shell is a file where the line
//! before it ends with the file's name: "…, `pipelines/hello.yaml`:". That is the whole convention.

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The heading that it stands under.
    pub heading: String,
    /// What stands behind the fence.
    pub language: String,
    /// The file that the line before it names.
    pub file: Option<String>,
    /// Its text.
    pub text: String,
}

/// All blocks of a paper.
#[must_use]
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut heading, mut before) = (String::new(), String::new());
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: String = lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
            let file =
                before.strip_suffix("`:").and_then(|before| before.rsplit_once('`')).map(|(_, name)| name.into());
            blocks.push(Block { heading: heading.clone(), language: language.trim().to_owned(), file, text });
        } else if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        }
        if !line.trim().is_empty() {
            line.clone_into(&mut before);
        }
    }
    blocks
}

impl Block {
    /// Whether it is to be run.
    #[must_use]
    pub fn is_shell(&self) -> bool {
        self.language == "sh"
    }

    /// The commands of a shell block: continued lines joined, comments left out.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let command = |line: &str| line.split(" #").next().unwrap_or(line).trim().to_owned();
        joined.lines().map(command).filter(|command| !command.is_empty() && !command.starts_with('#')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_blocks_files_and_commands() {
        let paper = "# A\n\n```sh\na b \\\n  | c  # why\n# no\nd\n```\n\n## B\nWrite `x.yaml`:\n\n```yaml\nk: v\n```\n";
        let [shell, file] = blocks(paper).try_into().expect("two blocks");
        assert!(shell.is_shell() && shell.heading == "A" && shell.file.is_none());
        assert_eq!(shell.commands(), ["a b    | c", "d"]);
        assert_eq!((file.heading.as_str(), file.file.as_deref(), file.text.as_str()), ("B", Some("x.yaml"), "k: v\n"));
    }
}
