//! Generated parts of a Markdown file: what stands between `<!-- results:NAME -->` and `<!-- /results -->`.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

const OPEN: &str = "<!-- results:";
const OPEN_END: &str = " -->";
const CLOSE: &str = "<!-- /results -->";

/// The file's text with every marked part replaced by the block of its name; the markers and all else stay as they are.
///
/// Filling a filled text again with the same blocks changes nothing, so comparing before and after tells whether the
/// file is stale. A marker counts only alone on its line (blanks around it do not matter), so prose and code can show one.
///
/// Errors: [`Error::Config`] with `source_name` and the line, for a name that no block has, a part that is not
/// closed, or a close that nothing opened; [`Error::InvalidArgument`] if the text has no marker at all.
pub fn fill(text: &str, blocks: &BTreeMap<String, String>, source_name: &str) -> Result<String> {
    let wrong = |line: usize, detail: String| Error::Config {
        source_name: source_name.to_owned(),
        key: format!("line {}", line + 1),
        detail,
    };
    let mut filled = String::with_capacity(text.len());
    let mut opened: Option<(usize, &str)> = None;
    let mut parts = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim();
        let name = marker.strip_prefix(OPEN).and_then(|rest| rest.strip_suffix(OPEN_END));
        match (opened, name) {
            (Some((at, open)), Some(_)) => {
                return Err(wrong(
                    number,
                    format!("'{open}' of line {} is still open: close it with {CLOSE} first", at + 1),
                ));
            }
            (None, Some(name)) => {
                let block = blocks.get(name).ok_or_else(|| {
                    let known: Vec<_> = blocks.keys().map(String::as_str).collect();
                    wrong(number, format!("nothing is called '{name}' here: known are {}", known.join(", ")))
                })?;
                opened = Some((number, name));
                parts += 1;
                // Empty lines around the block, because Markdown ends an HTML comment's paragraph only there.
                filled.push_str(line);
                filled.push('\n');
                filled.push_str(block.trim_matches('\n'));
                filled.push_str("\n\n");
            }
            (Some(_), None) if marker == CLOSE => {
                opened = None;
                filled.push_str(line);
            }
            (None, None) if marker == CLOSE => return Err(wrong(number, format!("{CLOSE} closes nothing: remove it"))),
            (Some(_), None) => {}
            (None, None) => filled.push_str(line),
        }
    }
    if let Some((at, name)) = opened {
        return Err(wrong(at, format!("'{name}' is never closed: write {CLOSE} after it")));
    }
    if parts == 0 {
        let known: Vec<_> = blocks.keys().map(String::as_str).collect();
        return Err(Error::invalid(format!(
            "{source_name} has no {OPEN}NAME{OPEN_END} line to fill: add one with {CLOSE} below it, NAME being one of {}",
            known.join(", ")
        )));
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> BTreeMap<String, String> {
        BTreeMap::from([("a".to_owned(), "| new |\n".to_owned()), ("b".to_owned(), "other".to_owned())])
    }

    #[test]
    fn only_marked_parts_change_and_only_once() {
        let text = "top\n<!-- results:a -->\nold\n\nolder\n<!-- /results -->\nmiddle `<!-- results:x -->`\n  <!-- results:b -->\n<!-- /results -->";
        let filled = fill(text, &blocks(), "README.md").unwrap();
        let golden = "top\n<!-- results:a -->\n\n| new |\n\n<!-- /results -->\nmiddle `<!-- results:x -->`\n  <!-- results:b -->\n\nother\n\n<!-- /results -->";
        assert_eq!(filled, golden);
        assert_eq!(fill(&filled, &blocks(), "README.md").unwrap(), filled);
    }

    #[test]
    fn line_ends_outside_the_parts_are_kept() {
        let text = "a\r\n<!-- results:b -->\r\n<!-- /results -->\r\nz\r\n";
        let filled = fill(text, &blocks(), "README.md").unwrap();
        assert!(filled.starts_with("a\r\n<!-- results:b -->\r\n") && filled.ends_with("<!-- /results -->\r\nz\r\n"));
        assert_eq!(fill(&filled, &blocks(), "README.md").unwrap(), filled);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, expected) in [
            (
                "\n<!-- results:c -->\n<!-- /results -->",
                "README.md: line 2: nothing is called 'c' here: known are a, b",
            ),
            ("<!-- results:a -->\n", "line 1: 'a' is never closed"),
            ("<!-- results:a -->\n<!-- results:b -->\n", "line 2: 'a' of line 1 is still open"),
            ("<!-- /results -->\n", "line 1: <!-- /results --> closes nothing"),
            ("nothing\n", "README.md has no <!-- results:NAME --> line to fill"),
        ] {
            let message = fill(text, &blocks(), "README.md").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
