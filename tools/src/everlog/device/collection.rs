//! The five collections of a device: which files of their folders are items, and what their items are called.
//!
//! It looks at names only, never at files. Invariant: a name that the server gives is used for a file only if `key` has
//! taken it, and what `key` takes leads nowhere but into its collection's folder.

/// One collection: a folder here, a stream there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Collection {
    /// The folder's name and the last part of the stream's.
    pub name: &'static str,
    /// The type that its changes bear.
    pub kind: &'static str,
    /// The one extension that its files may have; None: any.
    extension: Option<&'static str>,
}

pub const ALL: [Collection; 5] = [
    Collection { name: "contacts", kind: "contact", extension: Some("vcf") },
    Collection { name: "calendar", kind: "event", extension: Some("ics") },
    Collection { name: "todos", kind: "todo", extension: Some("ics") },
    Collection { name: "notes", kind: "note", extension: None },
    Collection { name: "photos", kind: "photo", extension: None },
];

const KEY_BYTES_MAX: usize = 255;
/// What follows a full stop in a sentence is no extension.
const EXTENSION_BYTES_MAX: usize = 16;
/// What a conflict adds to a name leaves room for some of the name: `.conflict-`, a whole hash, and the extension.
const _: () = assert!(".conflict-".len() + 64 + 1 + EXTENSION_BYTES_MAX < KEY_BYTES_MAX / 2);

impl Collection {
    /// Photos' bytes travel in streams of their own.
    pub fn is_photos(&self) -> bool {
        self.kind == "photo"
    }

    /// Whether a file of this name is an item: not hidden, not an editor's leaving, of the collection's kind.
    pub fn takes(&self, name: &str) -> bool {
        let fits = self.extension.is_none_or(|wanted| split(name).1.strip_prefix('.') == Some(wanted));
        !is_leaving(name) && fits
    }

    /// What is said of a file that is none of the collection's.
    pub fn wants(&self) -> &'static str {
        match self.extension {
            Some("vcf") => "its name does not end in .vcf",
            Some("ics") => "its name does not end in .ics",
            _ => "its name is that of no item",
        }
    }

    /// Why a name from the server may not become a file here; None if it may.
    pub fn refuses(&self, key: &str) -> Option<&'static str> {
        if key.is_empty() {
            Some("the name is empty")
        } else if key.len() > KEY_BYTES_MAX {
            Some("the name is longer than 255 bytes")
        } else if key.contains('/') {
            Some("the name leads to another folder")
        } else if key.chars().any(char::is_control) {
            Some("the name has a control character")
        } else if key.starts_with('.') {
            Some("the name begins with a full stop")
        } else if !self.takes(key) {
            Some("a file of this name would be no item of the collection")
        } else {
            None
        }
    }
}

/// Whether a name is hidden or what an editor leaves behind.
pub fn is_leaving(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || name.ends_with(".tmp")
}

/// The name before and from its last full stop on. A name that only begins with one has no extension, nor has one that
/// goes on for long after it.
pub fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= 1 + EXTENSION_BYTES_MAX => name.split_at(at),
        _ => (name, ""),
    }
}

/// The name under which the version that lost a conflict is kept, made of `digits` digits of its hash. The stem is cut
/// where the name would become too long for a file.
pub fn conflict_name(key: &str, hash: &str, digits: usize) -> String {
    let (stem, extension) = split(key);
    let tail = format!(".conflict-{}{extension}", &hash[..digits]);
    let mut room = stem.len().min(KEY_BYTES_MAX.saturating_sub(tail.len()));
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{tail}", &stem[..room])
}

/// The type of a file's content, as far as its name tells.
pub fn content_type(name: &str) -> &'static str {
    match split(name).1 {
        ".vcf" => "text/vcard",
        ".ics" => "text/calendar",
        ".txt" => "text/plain",
        ".md" => "text/markdown",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTACTS: Collection = ALL[0];
    const NOTES: Collection = ALL[3];

    #[test]
    fn only_items_are_taken() {
        for name in ["a.vcf", "a b.vcf", "ä.vcf", "a.b.vcf"] {
            assert!(CONTACTS.takes(name), "{name}");
        }
        for name in ["a", "a.txt", "a.vcf~", "a.vcf.tmp", ".a.vcf", ".vcf", "a.VCF"] {
            assert!(!CONTACTS.takes(name), "{name}");
        }
        assert!(NOTES.takes("a") && NOTES.takes("a.txt") && !NOTES.takes(".a") && !NOTES.takes("a~"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "a".repeat(256);
        let bad = ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0", "a\nb", ".hidden", "a\u{85}b", &long];
        for key in bad {
            assert!(NOTES.refuses(key).is_some(), "{key:?}");
        }
        assert!(CONTACTS.refuses("a.txt").is_some());
        for key in ["a", "a b", "ä…🙂", "a..b", "a\\b", &long[1..]] {
            assert!(NOTES.refuses(key).is_none(), "{key:?}");
        }
    }

    #[test]
    fn a_conflict_keeps_the_extension() {
        let hash = "0123456789abcdef";
        assert_eq!(conflict_name("milk.txt", hash, 8), "milk.conflict-01234567.txt");
        assert_eq!(conflict_name("milk", hash, 16), "milk.conflict-0123456789abcdef");
        assert_eq!(conflict_name("a.b.vcf", hash, 8), "a.b.conflict-01234567.vcf");
        let long = format!("{}.txt", "ä".repeat(125));
        let kept = conflict_name(&long, hash, 8);
        let sentence = format!("a. {}", "b".repeat(252));
        for digits in [8, 16] {
            let kept = conflict_name(&sentence, hash, digits);
            assert!(kept.len() <= 255 && NOTES.refuses(&kept).is_none() && kept.starts_with("a. b"), "{kept}");
        }
        assert!(kept.len() <= 255 && NOTES.refuses(&kept).is_none() && kept.ends_with("ä.conflict-01234567.txt"));
    }
}
