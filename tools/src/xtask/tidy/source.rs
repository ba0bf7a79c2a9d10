//! Rust text as the rules look at it: without comments, without the content of literals, without test code.
//!
//! This is a scanner and no parser: it knows where comments, literals and braces begin and end, and nothing else of
//! the language. Invariant: every view has the length and the line breaks of the text, so that an offset means the
//! same place in all of them.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file, in the views that the rules need.
pub struct Source {
    /// The path from the repository's root.
    pub path: PathBuf,
    /// The text as it is.
    pub text: String,
    /// Comments blanked; literals as they are.
    pub uncommented: String,
    /// Comments and the content of literals blanked.
    pub code: String,
    /// As `code`, test modules blanked too.
    pub product: String,
    /// Whether all of the file is test code.
    pub is_test: bool,
    /// Where the test modules are.
    tests: Vec<Range<usize>>,
}

impl Source {
    pub fn new(path: &Path, text: &str) -> Self {
        let (uncommented, code) = blank(text);
        let tests = test_modules(&code);
        let mut product = code.clone();
        for range in &tests {
            blank_range(&mut product, range.clone());
        }
        let is_test = path.components().any(|c| c.as_os_str() == "tests");
        Self { path: path.to_owned(), text: text.to_owned(), uncommented, code, product, is_test, tests }
    }

    /// The text without comments and test modules, white space made one blank: what two versions of a file that
    /// mean the same have in common.
    pub fn essence(&self) -> String {
        let mut text = self.uncommented.clone();
        for range in &self.tests {
            blank_range(&mut text, range.clone());
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The files that hold this file's test modules, where they are files of their own.
    fn test_files(&self) -> Vec<PathBuf> {
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let stem = self.path.file_stem().unwrap_or_default();
        let folder =
            if ["mod", "lib", "main"].iter().any(|root| stem == *root) { parent.into() } else { parent.join(stem) };
        let mut files = Vec::new();
        for range in &self.tests {
            let code = &self.code[range.clone()];
            let Some(name) = words(code, "mod").next().and_then(|at| code[at + 3..].strip_suffix(';')) else {
                continue;
            };
            files.push(folder.join(format!("{}.rs", name.trim())));
            files.push(folder.join(name.trim()));
        }
        files
    }

    /// The line of an offset, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
    }
}

/// Finds out which of the files are test code: those that some file declares as a module for tests alone.
pub fn mark_tests(sources: &mut [Source]) {
    let files: Vec<PathBuf> = sources.iter().flat_map(Source::test_files).collect();
    for source in sources {
        // A file that is a folder's name here stands for all that lies in the folder.
        source.is_test |= files.iter().any(|file| source.path.starts_with(file));
    }
}

/// Where `word` stands in `code` as a whole word.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).and_then(|i| bytes.get(i));
        !part(before) && !part(bytes.get(at + word.len()))
    })
}

/// The offset behind the brace that closes the one at `open`; the end of the text if none does.
pub fn behind_braces(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The text with comments blanked, and the same with the content of literals blanked too.
fn blank(text: &str) -> (String, String) {
    let (mut uncommented, mut code) = (text.to_owned(), text.to_owned());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") || rest.starts_with(b"/*") {
            let end = at + comment_len(rest);
            blank_range(&mut uncommented, at..end);
            blank_range(&mut code, at..end);
            at = end;
        } else if let Some((content, len)) = literal(rest, at.checked_sub(1).map(|i| bytes[i])) {
            blank_range(&mut code, at + content.start..at + content.end);
            at += len;
        } else {
            at += 1;
        }
    }
    (uncommented, code)
}

/// The length of the comment that `rest` begins with; block comments nest.
fn comment_len(rest: &[u8]) -> usize {
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Where the content of the string or character that `rest` begins with lies, and its whole length.
fn literal(rest: &[u8], before: Option<u8>) -> Option<(Range<usize>, usize)> {
    match rest[0] {
        b'"' => {
            let end = quote_end(rest, 1, b'"');
            Some((1..end, (end + 1).min(rest.len())))
        }
        // A raw string, unless the r ends a word such as `for`.
        b'r' if !before.is_some_and(|b| (b.is_ascii_alphanumeric() && b != b'b' && b != b'c') || b == b'_') => {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None;
            }
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let start = hashes + 2;
            let end = rest[start..].windows(close.len()).position(|w| w == close).map_or(rest.len(), |i| start + i);
            Some((start..end, (end + close.len()).min(rest.len())))
        }
        // A character: 'x', '\n', '\'', '…'; otherwise it is a lifetime.
        b'\'' => {
            let end = if rest.get(1) == Some(&b'\\') {
                quote_end(rest, 1, b'\'')
            } else {
                let char = std::str::from_utf8(&rest[1..rest.len().min(5)]);
                let valid = char
                    .unwrap_or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]).expect("valid up to there"));
                1 + valid.chars().next()?.len_utf8()
            };
            (rest.get(end) == Some(&b'\'')).then_some((1..end, end + 1))
        }
        _ => None,
    }
}

/// The offset of the quote that ends what began before `at`; a backslash escapes the byte behind it.
fn quote_end(rest: &[u8], mut at: usize, quote: u8) -> usize {
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at.min(rest.len())
}

/// The modules (and single items) compiled for tests alone, from their attribute to their closing brace.
fn test_modules(code: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(") {
        if found.last().is_some_and(|range| range.contains(&at)) {
            continue;
        }
        let Some(close) = code[at..].find(']').map(|i| at + i) else { continue };
        let condition = &code[at..close];
        if words(condition, "test").next().is_none() || condition.contains("not(test") {
            continue;
        }
        let body = &code[close..];
        let end = match (body.find('{'), body.find(';')) {
            (Some(brace), Some(semicolon)) if semicolon < brace => close + semicolon + 1,
            (Some(brace), _) => behind_braces(code, close + brace),
            (None, Some(semicolon)) => close + semicolon + 1,
            (None, None) => code.len(),
        };
        found.push(at..end);
    }
    found
}

/// Replaces what lies in `range` by blanks, but for the line breaks.
fn blank_range(text: &mut String, range: Range<usize>) {
    let blanks: Vec<u8> =
        text.as_bytes()[range.clone()].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }).collect();
    text.replace_range(range, std::str::from_utf8(&blanks).expect("blanks are ASCII"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(Path::new("engine/src/sample.rs"), text)
    }

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let text = r##"let a = "// unsafe \" {"; // unsafe
            let b = r#"unsafe " {"#; /* unsafe /* nested */ unsafe */ let c = '{'; let d = '\''; let e: &'static str;
            for x in "}" { unsafe {} }"##;
        let source = source(text);
        assert_eq!(words(&source.code, "unsafe").count(), 1, "{}", source.code);
        assert_eq!(source.code.matches('{').count(), 2);
        assert_eq!(source.code.len(), text.len());
        assert!(source.uncommented.contains("// unsafe \\\" {"), "a string is no comment");
        assert!(!source.uncommented.contains("nested"));
        assert!(source.code.contains("&'static str"));
    }

    #[test]
    fn characters_beyond_ascii_are_characters() {
        let source = source("let a = ['…', '\u{1F980}', '\\u{7f}', 'x']; let b: &'a str = \"…\"; // …\nlast");
        assert!(source.code.ends_with("\nlast"));
        assert!(source.code.contains("&'a str"));
        assert!(!source.code.contains('x'));
    }

    #[test]
    fn test_modules_are_no_product() {
        let source =
            source("fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { if x { } }\n}\n#[cfg(not(test))]\nfn c() {}");
        assert!(source.product.contains("fn a") && source.product.contains("fn c"));
        assert!(!source.product.contains("fn b"));
        assert_eq!(source.essence(), "fn a() {} #[cfg(not(test))] fn c() {}");
        assert_eq!(source.line(source.product.find("fn c").expect("it is there")), 7);
    }

    #[test]
    fn a_test_module_in_a_sibling_file_ends_at_its_semicolon() {
        let source = source("#[cfg(all(test, everlog_loom))]\nmod loom_tests;\nfn product() {}\n");
        assert!(source.product.contains("fn product"));
        assert!(!source.product.contains("loom_tests"));
    }

    #[test]
    fn files_of_test_modules_are_found_where_they_are_declared() {
        let read = |path: &str, text: &str| Source::new(Path::new(path), text);
        let mut sources = [
            read("engine/src/read.rs", "#[cfg(test)]\nmod tests;\nmod page;\n"),
            read("engine/src/read/tests.rs", ""),
            read("engine/src/read/page.rs", ""),
            read("engine/src/segment/mod.rs", "#[cfg(test)]\npub(crate) mod testing;\n"),
            read("engine/src/segment/testing/mod.rs", ""),
            read("engine/src/testing.rs", ""),
            read("tests/tests/kill.rs", ""),
        ];
        mark_tests(&mut sources);
        let is_test: Vec<_> = sources.iter().map(|source| source.is_test).collect();
        assert_eq!(is_test, [false, true, false, false, true, false, true]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("unsafe_code unsafe(x) my_unsafe", "unsafe").collect::<Vec<_>>(), [12]);
    }
}
