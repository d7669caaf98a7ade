//! The source of the app: its marked blocks, its text literals, and how it looks on the page.
//!
//! A block is between the lines `// <ms_docref_NAME>` and `// </ms_docref_NAME>`.

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::highlight::{Kind, highlight, tokens};

pub struct Source {
    /// The path in the repository, such as `src/routes/graph.rs`.
    pub file: &'static str,
    text: &'static str,
    /// Each line as HTML.
    lines: Vec<String>,
    blocks: Vec<Block>,
    literals: Vec<Literal>,
    /// Where each step begins: at its comment `// Step N: `.
    steps: Vec<Start>,
}

#[derive(Clone)]
struct Block {
    name: &'static str,
    first: usize,
    last: usize,
}

struct Literal {
    line: usize,
    /// The text without the placeholders of a format string.
    fragments: Vec<String>,
}

struct Start {
    line: usize,
    step: usize,
}

/// A block of the source for the page.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Code {
    pub file: &'static str,
    pub name: &'static str,
    pub first: usize,
    pub last: usize,
    /// The line that the page points at, or 0.
    pub line: usize,
    pub lines: Vec<CodeLine>,
}

#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct CodeLine {
    number: usize,
    html: String,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// A block is not closed, or not nested in another one.
    pub fn new(file: &'static str, text: &'static str) -> anyhow::Result<Self> {
        let (mut open, mut blocks, mut steps) =
            (Vec::<(&str, usize)>::new(), Vec::new(), Vec::new());
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if let Some(name) = text.strip_prefix("// <ms_docref_") {
                open.push((name.trim_end_matches('>'), line + 1));
            } else if let Some(name) = text.strip_prefix("// </ms_docref_") {
                let name = name.trim_end_matches('>');
                let (opened, first) =
                    open.pop().with_context(|| format!("{file}:{line}: {name}"))?;
                ensure!(opened == name, "{file}:{line}: {name} ends in {opened}");
                blocks.push(Block { name, first, last: line - 1 });
            } else if let Some(step) = step_of_text(text.strip_prefix("// ").unwrap_or_default()) {
                steps.push(Start { line, step });
            }
        }
        if let Some((name, line)) = open.pop() {
            bail!("{file}:{line}: {name} has no end");
        }
        let mut literals = Vec::new();
        let mut line = 1;
        for token in tokens(text) {
            if token.kind == Kind::Text {
                literals.push(Literal::new(line, token.text));
            }
            line += token.text.matches('\n').count();
        }
        Ok(Self { file, text, lines: highlight(text), blocks, literals, steps })
    }

    /// The block with this name.
    pub fn block(&self, name: &str, line: usize) -> Option<Code> {
        self.blocks.iter().find(|block| block.name == name).map(|block| self.code(block, line))
    }

    /// The innermost block that contains this line.
    pub fn block_at(&self, line: usize) -> Option<Code> {
        self.innermost(line).map(|block| self.code(block, line))
    }

    fn innermost(&self, line: usize) -> Option<&Block> {
        let around = self.blocks.iter().filter(|block| (block.first..=block.last).contains(&line));
        around.min_by_key(|block| block.last - block.first)
    }

    fn code(&self, block: &Block, line: usize) -> Code {
        let numbers = (block.first..).zip(&self.lines[block.first - 1..block.last]);
        let lines: Vec<_> = numbers.filter(|(_, html)| !html.contains("ms_docref_")).collect();
        // Without the common indent.
        let indent = |html: &str| html.len() - html.trim_start().len();
        let texts = lines.iter().filter(|(_, html)| !html.is_empty());
        let common = texts.map(|(_, html)| indent(html)).min().unwrap_or(0);
        let lines = lines.into_iter().map(|(number, html)| CodeLine {
            number,
            html: html.get(common..).unwrap_or_default().to_owned(),
        });
        let Block { name, first, last } = *block;
        Code { file: self.file, name, first, last, line, lines: lines.collect() }
    }

    /// The step to which a line belongs.
    pub fn step_at(&self, line: usize) -> Option<usize> {
        self.steps.iter().rev().find(|start| start.line <= line).map(|start| start.step)
    }

    /// The line that made this message, in a handler that has passed the line `after`. It is the
    /// line of the longest literal that fits. If another literal of the file fills its placeholder,
    /// it is the line of that one. If the literal is in a closure and the rest of the message comes
    /// from a library, it is the next line that calls the closure.
    pub fn line_of_message(&self, message: &str, after: usize) -> Option<usize> {
        let fitting = self.literals.iter().filter(|literal| literal.gaps(message).is_some());
        let literal = fitting.max_by_key(|literal| literal.length())?;
        let gaps = literal.gaps(message)?;
        let cause = self.literals.iter().find(|other| {
            other.line > literal.line && gaps.iter().any(|gap| other.fragments == [*gap])
        });
        let call = || self.call_of_closure(literal.line, after);
        Some(cause.map(|cause| cause.line).or_else(call).unwrap_or(literal.line))
    }

    /// The next line after `after` that calls the closure around this line, and without a text.
    fn call_of_closure(&self, line: usize, after: usize) -> Option<usize> {
        let lines: Vec<_> = self.text.lines().collect();
        let start = lines[line.saturating_sub(3)..line].iter().rev();
        let name = start.filter_map(|line| line.trim().strip_prefix("let ")).next()?;
        let call = format!("{}(", name.split_once(" = |")?.0);
        let mut numbered = (1..).zip(&lines).filter(|(number, _)| *number > line.max(after));
        let is_call = |line: &str| line.contains(&call) && !line.contains(&format!("{call}\""));
        numbered.find(|(_, line)| is_call(line)).map(|(number, _)| number)
    }
}

/// The number of `step 3: …` or `Step 3: …`.
pub fn step_of_text(text: &str) -> Option<usize> {
    let text = text.strip_prefix("step ").or(text.strip_prefix("Step "))?;
    text.split_once(": ").and_then(|(number, _)| number.parse().ok())
}

impl Literal {
    fn new(line: usize, token: &str) -> Self {
        let text = token.trim_start_matches(['r', 'b', '#']).trim_end_matches('#');
        // With Git on Windows, lines can end with CRLF.
        let text = text.trim_matches('"').replace('\r', "").replace("\\\"", "\"");
        // A backslash continues the text on the next line.
        let mut joined = String::new();
        for (number, part) in text.split("\\\n").enumerate() {
            joined += if number == 0 { part } else { part.trim_start() };
        }
        let mut fragments = vec![String::new()];
        let mut is_inside = false;
        for c in joined.chars() {
            match c {
                '{' => {
                    is_inside = true;
                    fragments.push(String::new());
                }
                '}' => is_inside = false,
                _ if is_inside => {}
                _ => fragments.last_mut().map_or((), |fragment| fragment.push(c)),
            }
        }
        Self { line, fragments }
    }

    fn length(&self) -> usize {
        self.fragments.iter().map(String::len).sum()
    }

    /// What fills the placeholders, if this literal made the message.
    fn gaps<'a>(&self, message: &'a str) -> Option<Vec<&'a str>> {
        if self.length() < 8 {
            return None;
        }
        let mut gaps = Vec::new();
        let mut rest = message.strip_prefix(self.fragments.first()?.as_str())?;
        for fragment in &self.fragments[1..] {
            let (gap, after) = match fragment.as_str() {
                "" => (rest, ""),
                text => rest.split_once(text)?,
            };
            gaps.push(gap);
            rest = after;
        }
        Some(gaps)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TEXT: &str = r#"// <ms_docref_outer>
// Step 6: look.
let refuse = |cause| error(format!("The token is bad: {cause}."));
    // <ms_docref_first>
    if a { return refuse("crit of it"); }
    // </ms_docref_first>
    // <ms_docref_second>
    // Step 7: check.
    decode().map_err(|err| refuse(&err))?;
    info!("step 7: {} is checked", x);
    // </ms_docref_second>
return Err("Not found at \
    all.");
// </ms_docref_outer>
"#;

    #[test]
    fn the_innermost_block_contains_a_line_and_the_steps_are_known() {
        let source = Source::new("a.rs", TEXT).unwrap();
        let found = [3, 5, 9].map(|line| source.block_at(line).unwrap().name);
        assert_eq!(found, ["outer", "first", "second"]);
        assert_eq!(source.block_at(100), None);
        let code = source.block("second", 0).unwrap();
        assert_eq!((code.first, code.last, code.lines.len()), (8, 10, 3));
        assert!(code.lines[0].html.starts_with("<span class=\"c\">// Step 7"));
        // The markers of inner blocks are not shown.
        assert_eq!(source.block("outer", 0).unwrap().lines.len(), 8);
        assert_eq!([2, 5, 9].map(|line| source.step_at(line)), [Some(6), Some(6), Some(7)]);
        assert_eq!(source.step_at(1), None);
    }

    #[test]
    fn a_message_leads_to_the_line_that_made_it() {
        // With Git on Windows, lines can end with CRLF.
        for text in [TEXT, TEXT.replace('\n', "\r\n").leak()] {
            let source = Source::new("a.rs", text).unwrap();
            for (message, line) in [
                ("Not found at all.", Some(12)),
                ("The token is bad: crit of it.", Some(5)),
                // A library made this cause.
                ("The token is bad: InvalidSignature.", Some(9)),
                ("Something else", None),
            ] {
                assert_eq!(source.line_of_message(message, 4), line, "{message}");
            }
        }
    }

    #[test]
    fn a_file_with_wrong_markers_is_an_error() {
        for text in [
            "// <ms_docref_a>\n",
            "// </ms_docref_a>\n",
            "// <ms_docref_a>\n// <ms_docref_b>\n// </ms_docref_a>\n// </ms_docref_b>\n",
        ] {
            assert!(Source::new("a.rs", text).is_err(), "{text}");
        }
    }
}
