//! What a request may meet, by chance or by a strike. It does nothing itself.

/// What a request may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfortune {
    /// It fails, and did nothing.
    Fails,
    /// It is answered with 5xx, and did nothing.
    Unavailable,
    /// A put did what was asked, and its answer is lost.
    AnswerLost,
    /// A put fails, and lands later.
    Late,
    /// A put is said to have created an object, and stored nothing: an error in a 200. By a strike also a get whose
    /// answer is the text of an error, and a listing that names nothing.
    Hollow,
    /// A put stored its object with one bit flipped, or cut short.
    Spoilt,
    /// A get's answer is cut short: it has fewer bytes than it says, or says that there are no more. By a strike also an
    /// object that is stored so, and a listing.
    Truncated,
    /// A get's answer has one bit flipped. By a strike also an object that is stored so, and a listing's last key.
    Flipped,
    /// A listing is old: what was put lately is missing.
    Stale,
    /// The node is cut off.
    CutOff,
}

impl Misfortune {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Fails,
        Self::Unavailable,
        Self::AnswerLost,
        Self::Late,
        Self::Hollow,
        Self::Spoilt,
        Self::Truncated,
        Self::Flipped,
        Self::Stale,
        Self::CutOff,
    ];

    /// In a few words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fails => "requests that failed",
            Self::Unavailable => "requests answered with 5xx",
            Self::AnswerLost => "answers lost",
            Self::Late => "puts that landed late",
            Self::Hollow => "errors in a 200",
            Self::Spoilt => "objects spoilt on the way",
            Self::Truncated => "answers truncated",
            Self::Flipped => "answers with a flipped bit",
            Self::Stale => "listings that were old",
            Self::CutOff => "requests of nodes cut off",
        }
    }
}

/// What a put meets by chance.
pub(super) const PUT: [Misfortune; 6] = [
    Misfortune::Fails,
    Misfortune::Unavailable,
    Misfortune::AnswerLost,
    Misfortune::Late,
    Misfortune::Hollow,
    Misfortune::Spoilt,
];
/// What a put of the first object meets by chance.
pub(super) const PUT_HOME: [Misfortune; 4] =
    [Misfortune::Fails, Misfortune::Unavailable, Misfortune::AnswerLost, Misfortune::Late];
/// What a get meets by chance.
pub(super) const GET: [Misfortune; 4] =
    [Misfortune::Fails, Misfortune::Unavailable, Misfortune::Truncated, Misfortune::Flipped];
/// What a listing meets by chance.
pub(super) const LIST: [Misfortune; 3] = [Misfortune::Fails, Misfortune::Unavailable, Misfortune::Stale];

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// A put.
    Put,
    /// A get.
    Get,
    /// A listing.
    List,
}

/// A misfortune for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The request's number, from 1 on, among all of the store.
    pub request: u64,
    /// What it meets.
    pub kind: Misfortune,
    /// What follows from chance of it: where, how late.
    pub luck: u64,
}

/// How often requests meet each misfortune, in a thousand of those that can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds([u64; Misfortune::ALL.len()]);

impl Odds {
    /// All alike.
    #[must_use]
    pub fn all(per_mille: u64) -> Self {
        Self([per_mille; Misfortune::ALL.len()])
    }

    /// Those, and `per_mille` for one.
    #[must_use]
    pub fn with(mut self, kind: Misfortune, per_mille: u64) -> Self {
        self.0[kind as usize] = per_mille;
        self
    }

    /// How often it is this one.
    #[must_use]
    pub fn of(&self, kind: Misfortune) -> u64 {
        self.0[kind as usize]
    }
}
