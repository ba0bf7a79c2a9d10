//! docs/FORMAT.md against the code of the format: neither changes alone.
//!
//! Two checks. Each table of byte offsets in the document is marked with the file it describes, and its first column
//! must be the offsets that the file's chain of constants gives. And the document ends with a digest of that code and
//! of all of engine/src/format/, so that whoever changes any of it must look at the document and bless it. Whether the
//! prose is right is for people. Invariant: a table of offsets without a mark is an error, so that none goes unchecked.
//!
//! A mark is a line before the table, `<!-- layout: format/frame.rs -->`, with a path below engine/src. Where a file
//! holds several chains it also names the first and the last constant: `<!-- layout: segment.rs LOG_AT..LSN_AT -->`.
//! A row of zeros needs no constant, nor does a last row without a length, which goes on to the end; a row that begins
//! with "as in" stands for all constants within it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Problem;
use super::source::{Source, words};

pub const DOCUMENT: &str = "docs/FORMAT.md";
const ENGINE: &str = "engine/src";
const FORMAT_CODE: &str = "engine/src/format";
const MARK: &str = "<!-- layout: ";
const DIGEST: &str = "<!-- format-digest: ";

pub fn check(document: &str, sources: &[Source]) -> Vec<Problem> {
    let mut problems = check_tables(document, sources);
    let digest = digest(document, sources);
    match document.lines().enumerate().find(|(_, line)| line.starts_with(DIGEST)) {
        Some((_, line)) if line.contains(&digest) => {}
        found => {
            let line = found.map_or(document.lines().count(), |(i, _)| i + 1);
            let what = "the format's code changed since this document was last held against it: read both, correct \
                        this one, then `cargo xtask tidy --bless`";
            problems.push(Problem::new(Path::new(DOCUMENT), line, what));
        }
    }
    problems
}

/// The document with the digest of the code as it is now; or the first table that does not agree with the code.
pub fn blessed(document: &str, sources: &[Source]) -> Result<String, Problem> {
    if let Some(problem) = check_tables(document, sources).into_iter().next() {
        return Err(problem);
    }
    let kept: Vec<_> = document.lines().filter(|line| !line.starts_with(DIGEST)).collect();
    Ok(format!("{}\n\n{DIGEST}{} -->\n", kept.join("\n").trim_end(), digest(document, sources)))
}

/// BLAKE3 over the format's code without comments and tests, file by file in the order of their names.
fn digest(document: &str, sources: &[Source]) -> String {
    let tables = tables(document, &mut Vec::new());
    let marked: Vec<_> = tables.iter().filter_map(|table| table.mark.as_ref()).map(|mark| &mark.path).collect();
    let belongs = |path: &Path| path.starts_with(FORMAT_CODE) || marked.iter().any(|marked| *marked == path);
    let mut hasher = blake3::Hasher::new();
    for source in sources.iter().filter(|source| belongs(&source.path) && !source.is_test) {
        hasher.update(source.path.to_string_lossy().as_bytes());
        hasher.update(b"\n");
        hasher.update(source.essence().as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}

/// One row of a table of offsets.
struct Row<'a> {
    line: usize,
    at: u64,
    /// None: to the end.
    bytes: Option<u64>,
    field: &'a str,
}

impl Row<'_> {
    /// Whether the field that a constant at this offset names is told by the row.
    fn tells(&self, at: u64) -> bool {
        at == self.at || (self.field.starts_with("as in") && (self.at..self.at + self.bytes.unwrap_or(0)).contains(&at))
    }

    fn needs_constant(&self) -> bool {
        self.bytes.is_some() && !self.field.starts_with("zero") && !self.field.starts_with("as in")
    }
}

/// Which code a table describes.
#[derive(Clone)]
struct Mark {
    path: PathBuf,
    /// The first and the last constant of the chain; None: all of the file's.
    chain: Option<(String, String)>,
}

impl Mark {
    fn parse(line: &str) -> Option<Self> {
        let text = line.strip_prefix(MARK)?.strip_suffix(" -->")?;
        let (file, chain) = text.split_once(' ').map_or((text, None), |(file, chain)| (file, Some(chain)));
        let chain = match chain {
            Some(chain) => chain.split_once("..").map(|(first, last)| Some((first.to_owned(), last.to_owned())))?,
            None => None,
        };
        Some(Self { path: Path::new(ENGINE).join(file), chain })
    }
}

/// A table of offsets and the mark before it.
struct Table<'a> {
    line: usize,
    mark: Option<Mark>,
    rows: Vec<Row<'a>>,
}

fn check_tables(document: &str, sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for table in tables(document, &mut problems) {
        let told = |line, what: String| Problem::new(Path::new(DOCUMENT), line, what);
        for pair in table.rows.windows(2) {
            let end = pair[0].bytes.map(|bytes| pair[0].at + bytes);
            if end != Some(pair[1].at) {
                let end = end.map_or_else(|| "nowhere".to_owned(), |end| format!("at {end}"));
                problems.push(told(pair[1].line, format!("the field before ends {end}, not at {}", pair[1].at)));
            }
        }
        let Some(mark) = &table.mark else {
            let what =
                format!("a table of offsets must say which code it describes: {MARK}format/file.rs --> before it");
            problems.push(told(table.line, what));
            continue;
        };
        let Some(source) = sources.iter().find(|source| source.path == mark.path) else {
            problems.push(told(table.line, format!("{} does not exist", mark.path.display())));
            continue;
        };
        match offsets(source, mark) {
            Ok(offsets) => problems.extend(compare(&table, source, &offsets)),
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

/// The tables whose first column is an offset. What is no number in them is a problem.
fn tables<'a>(document: &'a str, problems: &mut Vec<Problem>) -> Vec<Table<'a>> {
    let mut tables = Vec::new();
    let mut lines = document.lines().enumerate().peekable();
    let mut mark = None;
    while let Some((i, line)) = lines.next() {
        if line.starts_with(MARK) {
            mark = Mark::parse(line);
        } else if line.starts_with("| at |") {
            let mut table = Table { line: i + 1, mark: mark.take(), rows: Vec::new() };
            while let Some((i, line)) = lines.next_if(|(_, line)| line.starts_with('|')) {
                let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
                if cells[0].starts_with("--") {
                    continue;
                }
                let numbers = |at: &str, bytes: &str| {
                    let bytes = if bytes.is_empty() { None } else { Some(bytes.parse().ok()?) };
                    Some((at.parse().ok()?, bytes))
                };
                match cells[..] {
                    [at, bytes, field, ..] if let Some((at, bytes)) = numbers(at, bytes) => {
                        table.rows.push(Row { line: i + 1, at, bytes, field });
                    }
                    _ => problems.push(Problem::new(Path::new(DOCUMENT), i + 1, "no offset and length in this row")),
                }
            }
            tables.push(table);
        } else if !line.trim().is_empty() {
            mark = None;
        }
    }
    tables
}

fn compare(table: &Table<'_>, source: &Source, offsets: &BTreeMap<u64, (String, usize)>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, (name, line)) in offsets {
        if !table.rows.iter().any(|row| row.tells(*at)) {
            let what = format!("{name} is {at}, and the table at {DOCUMENT}:{} has no such offset", table.line);
            problems.push(Problem::new(&source.path, *line, what));
        }
    }
    for row in table.rows.iter().filter(|row| row.needs_constant()) {
        if !offsets.contains_key(&row.at) {
            let what = format!("{} has no constant for the offset {} ({})", source.path.display(), row.at, row.field);
            problems.push(Problem::new(Path::new(DOCUMENT), row.line, what));
        }
    }
    problems
}

/// The offsets that the `…_AT` constants of a chain stand for, each with its name and line.
fn offsets(source: &Source, mark: &Mark) -> Result<BTreeMap<u64, (String, usize)>, Problem> {
    let mut values: BTreeMap<&str, u64> = BTreeMap::from([("BLOCK", 4096)]);
    let mut offsets = BTreeMap::new();
    let mut within = mark.chain.is_none();
    for at in words(&source.product, "const") {
        let rest = &source.product[at + "const".len()..];
        let Some((head, expression)) = rest.split(';').next().and_then(|item| item.split_once('=')) else { continue };
        let Some((name, ty)) = head.split_once(':').map(|(name, ty)| (name.trim(), ty.trim())) else { continue };
        if ty != "usize" {
            continue;
        }
        let value = evaluate(expression, &values);
        if let Some(value) = value {
            values.insert(name, value);
        }
        within |= mark.chain.as_ref().is_some_and(|(first, _)| first == name);
        if within && name.ends_with("_AT") {
            let line = source.line(at);
            let Some(value) = value else {
                let what = format!("{name} is no sum of numbers and constants above it, so it cannot be checked");
                return Err(Problem::new(&source.path, line, what));
            };
            if let Some((other, _)) = offsets.insert(value, (name.to_owned(), line)) {
                return Err(Problem::new(&source.path, line, format!("{name} and {other} are both {value}")));
            }
        }
        if mark.chain.as_ref().is_some_and(|(_, last)| last == name) {
            return Ok(offsets);
        }
    }
    match &mark.chain {
        Some((first, last)) => {
            let what = format!("the constants {first} to {last}, which {DOCUMENT} names, are not here");
            Err(Problem::new(&source.path, 1, what))
        }
        None => Ok(offsets),
    }
}

/// A sum of products of numbers and known names.
fn evaluate(expression: &str, values: &BTreeMap<&str, u64>) -> Option<u64> {
    let mut sum = 0_u64;
    for term in expression.replace('-', "+-").split('+') {
        let (minus, term) = term.trim().strip_prefix('-').map_or((false, term), |term| (true, term));
        let mut product = 1_u64;
        for factor in term.split('*') {
            let factor = factor.trim();
            let number = factor.replace('_', "").parse().ok().or_else(|| values.get(factor).copied())?;
            product = product.checked_mul(number)?;
        }
        sum = if minus { sum.checked_sub(product)? } else { sum.checked_add(product)? };
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "const MAGIC_AT: usize = 0;\nconst LEN_AT: usize = MAGIC_AT + 8;\n\
        const FIRST_FRAME_AT: u64 = BLOCK as u64;\nconst CRC_AT: usize = BLOCK - 4;\n";
    const TABLE: &str = "<!-- layout: format/frame.rs -->\n| at | bytes | field |\n|---:|---:|---|\n\
        | 0 | 8 | magic |\n| 8 | 4 | length |\n| 12 | 4080 | zeros |\n| 4092 | 4 | CRC |\n";

    fn sources(code: &str) -> Vec<Source> {
        vec![Source::new(Path::new("engine/src/format/frame.rs"), code)]
    }

    fn told(table: &str, code: &str) -> Vec<String> {
        check_tables(table, &sources(code)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn agreement_passes() {
        assert_eq!(told(TABLE, CODE), Vec::<String>::new());
    }

    #[test]
    fn a_field_that_moved_in_the_code_is_noticed() {
        let problems = told(TABLE, &CODE.replace("MAGIC_AT + 8", "MAGIC_AT + 10"));
        assert!(problems.iter().any(|p| p.starts_with("engine/src/format/frame.rs:2: LEN_AT is 10")), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("docs/FORMAT.md:5:")), "{problems:?}");
    }

    #[test]
    fn a_field_that_moved_in_the_document_is_noticed() {
        let problems = told(&TABLE.replace("| 12 | 4080 |", "| 13 | 4079 |"), CODE);
        assert_eq!(problems, ["docs/FORMAT.md:6: the field before ends at 12, not at 13"]);
        assert_eq!(told(&TABLE.replace("| 8 | 4 | length |\n", ""), CODE).len(), 2);
    }

    #[test]
    fn every_table_of_offsets_is_checked() {
        assert_eq!(told(&TABLE.replace("<!-- layout: format/frame.rs -->\n", ""), CODE).len(), 1);
        assert_eq!(told(&TABLE.replace("frame.rs", "absent.rs"), CODE).len(), 1);
        assert_eq!(told(&TABLE.replace("| 8 | 4 |", "| 8 | four |"), CODE).len(), 3);
    }

    #[test]
    fn a_mark_chooses_among_chains() {
        let code = "const MAGIC_AT: usize = 0;\nconst ID_AT: usize = MAGIC_AT + 8;\nconst SUM_AT: usize = ID_AT + 8;\n\
            const LOG_AT: usize = 0;\nconst SEQ_AT: usize = LOG_AT + 16;\n";
        let table = |chain: &str, rows: &str| {
            format!("<!-- layout: format/frame.rs{chain} -->\n| at | bytes | field |\n|--|--|--|\n{rows}")
        };
        let entry = "| 0 | 16 | log |\n| 16 | 8 | seq |\n";
        assert_eq!(told(&table(" LOG_AT..SEQ_AT", entry), code), Vec::<String>::new());
        assert!(!told(&table("", entry), code).is_empty());
        assert_eq!(told(&table(" LOG_AT..TAG_AT", entry), code).len(), 1);
        let footer = "| 0 | 16 | as in the header |\n| 16 | 4 | sum |\n| 20 | | text |\n";
        assert_eq!(told(&table(" MAGIC_AT..SUM_AT", footer), code), Vec::<String>::new());
        assert!(!told(&table(" MAGIC_AT..SUM_AT", &footer.replace("as in", "unlike")), code).is_empty());
        assert!(!told(&table(" MAGIC_AT..SUM_AT", &footer.replace("| 16 | 4 |", "| 16 | |")), code).is_empty());
    }

    #[test]
    fn code_elsewhere_that_a_table_describes_belongs_to_the_digest() {
        let table = TABLE.replace("format/frame.rs", "segment/filter.rs");
        let sources = |code: &str| vec![Source::new(Path::new("engine/src/segment/filter.rs"), code)];
        let blessed = blessed(&table, &sources(CODE)).expect("the table agrees");
        assert_eq!(check(&blessed, &sources(CODE)), Vec::new());
        assert_eq!(check(&blessed, &sources(&format!("{CODE}fn build() {{}}\n"))).len(), 1);
    }

    #[test]
    fn an_offset_that_cannot_be_computed_is_noticed() {
        assert_eq!(told(TABLE, &CODE.replace("MAGIC_AT + 8", "size_of::<Magic>()")).len(), 1);
    }

    #[test]
    fn sums_of_products_are_computed() {
        let values = BTreeMap::from([("BLOCK", 4096), ("PLACES_AT", 100)]);
        assert_eq!(evaluate(" PLACES_AT + 8 * 16 - 4 ", &values), Some(224));
        assert_eq!(evaluate("BLOCK - 1_000", &values), Some(3096));
        assert_eq!(evaluate("0 - 1", &values), None);
        assert_eq!(evaluate("OTHER + 8", &values), None);
        assert_eq!(evaluate("size_of::<u64>()", &values), None);
    }

    #[test]
    fn the_digest_forces_a_look_at_the_document() {
        let blessed = blessed(TABLE, &sources(CODE)).expect("the table agrees");
        assert_eq!(check(&blessed, &sources(CODE)), Vec::new());
        let changed = sources(&format!("{CODE}const MAGIC: &[u8; 8] = b\"EVLGFRAM\";\n"));
        assert_eq!(check(&blessed, &changed).len(), 1);
        assert_eq!(check(&blessed.replace("format-digest", "digest"), &sources(CODE)).len(), 1);
        let commented = sources(&format!("{CODE}// A word on it.\n#[cfg(test)]\nmod tests {{ }}\n"));
        assert_eq!(check(&blessed, &commented), Vec::new());
        let again = super::blessed(&blessed, &changed).expect("the table still agrees");
        assert_eq!(again.matches(DIGEST).count(), 1);
        assert_eq!(check(&again, &changed), Vec::new());
    }
}
