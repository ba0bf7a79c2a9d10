//! Whether the server still has the history that this device relies on, and if not, up to where it has it.
//!
//! It only asks; what is put back is decided elsewhere. Invariant: where the server cannot tell exactly what it has lost,
//! too much is taken for lost and never too little, because what is said twice is said once and what is lost is lost.

use super::heal::{Loss, NOTHING_KEPT, is_same_timeline};
use super::remote::{Page, Told};
use super::session::Session;
use everlog_server::failure::Failure;

/// What is lost, if the server no longer leads to the furthest place that anything here speaks of. A cursor that lies before
/// that place is still valid on a server that was put back to a point between the two, and so tells nothing.
pub fn find_loss(session: &Session<'_>) -> Result<Option<Loss>, Failure> {
    let Some(heard) = session.state.heard.as_deref() else { return Ok(None) };
    match session.remote.read(session.collection, heard)? {
        Page::Content { .. } => Ok(None),
        Page::Cut(told) => find_cut(session, heard, told).map(Some),
        // The cursor may lie where every history begins, of which nobody tells that.
        Page::Missing { is_rewind: true } => Ok(Some(Loss { cut: NOTHING_KEPT.to_owned(), is_rewind: true })),
        // What follows meets the same and knows what it means.
        Page::Trimmed | Page::Missing { .. } => Ok(None),
    }
}

/// Up to where the server still has what led to `lost`. What it says of that is exact if it knows the timeline of
/// `lost`. If it does not, it can only guess, and an older cursor is tried whose timeline it may know: of two places,
/// the earlier makes more be said again, while a later one would let old versions win over new ones.
pub fn find_cut(session: &Session<'_>, lost: &str, told: Told) -> Result<Loss, Failure> {
    let (mut lost, mut told) = (lost, told);
    for mark in session.state.marks.iter().rev() {
        if is_exact(&told, lost) {
            break;
        }
        if is_same_timeline(mark, lost) {
            continue;
        }
        match session.remote.read(session.collection, mark)? {
            Page::Content { .. } => return Ok(Loss { cut: mark.clone(), is_rewind: told.is_rewind }),
            // Where it knows the timeline, it knows as well what cut that off.
            Page::Cut(of_mark) => (told, lost) = (of_mark, mark),
            Page::Trimmed | Page::Missing { .. } => break,
        }
    }
    let is_exact = is_exact(&told, lost);
    let cut = told.cut.filter(|_| is_exact).unwrap_or(NOTHING_KEPT.to_owned());
    Ok(Loss { cut, is_rewind: told.is_rewind })
}

fn is_exact(told: &Told, lost: &str) -> bool {
    told.cut.as_deref().is_some_and(|cut| is_same_timeline(cut, lost))
}
