//! What clients do, how often, and what may come of it.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Chat,
    Stream,
    /// Leaves in the middle of a stream.
    Cancel,
    /// Leaves before the answer.
    Gone,
    /// One server, which has faults, and nobody else.
    Solo,
    Speech,
    /// Speech for who takes it slowly.
    Slow,
    /// Speech that is kept.
    Kept,
    Upload,
    /// Leaves in the middle of its upload.
    HalfUpload,
    Embed,
    /// With a key that may ask only so often.
    Limited,
    WrongKey,
    Nowhere,
    BadBody,
    BadHead,
    /// Leaves in the middle of the head.
    HalfHead,
    TooLarge,
    Talk,
    Remember,
    Respond,
    Models,
}

use Kind::*;

/// Of a hundred or so.
const SHARES: &[(Kind, u32)] = &[
    (Chat, 16),
    (Stream, 14),
    (Cancel, 8),
    (Gone, 5),
    (Solo, 8),
    (Speech, 10),
    (Slow, 2),
    (Kept, 10),
    (Upload, 4),
    (HalfUpload, 2),
    (Embed, 8),
    (Limited, 6),
    (WrongKey, 1),
    (Nowhere, 1),
    (BadBody, 2),
    (BadHead, 2),
    (HalfHead, 1),
    (TooLarge, 1),
    (Talk, 2),
    (Remember, 2),
    (Respond, 2),
    (Models, 1),
];

impl Kind {
    pub fn any(random: &mut fastrand::Rng) -> Self {
        let total: u32 = SHARES.iter().map(|(_, share)| share).sum();
        let mut at = random.u32(..total);
        for (kind, share) in SHARES {
            match at.checked_sub(*share) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        Chat
    }

    /// Some of its servers have faults.
    pub fn meets_faults(self) -> bool {
        matches!(
            self,
            Chat | Stream | Cancel | Gone | Solo | Speech | Slow | Upload | HalfUpload
        )
    }

    /// There is nobody else to ask when they do.
    pub fn may_go_unserved(self) -> bool {
        matches!(self, Solo | Upload | HalfUpload)
    }

    /// Statuses that servers may answer, those of faults aside.
    pub fn answers(self) -> &'static [u16] {
        match self {
            Talk => &[101],
            WrongKey | Nowhere | BadBody | BadHead | HalfHead | TooLarge | Models => &[],
            _ => &[200],
        }
    }

    /// Statuses and codes that Trunkline may answer itself.
    pub fn replies(self) -> &'static [(u16, &'static str)] {
        match self {
            Upload | HalfUpload => &[(429, "queue_full"), (429, "queue_timeout")],
            Kept => &[(200, "cached")],
            Limited => &[(429, "rate_limit_exceeded")],
            WrongKey => &[(401, "invalid_api_key")],
            Nowhere => &[(404, "model_not_found"), (404, "no_route")],
            BadBody => &[(400, "invalid_json"), (400, "invalid_multipart")],
            BadHead => &[
                (400, "invalid_request"),
                (414, "uri_too_long"),
                (431, "headers_too_large"),
            ],
            TooLarge => &[(413, "body_too_large")],
            Models => &[(200, "models")],
            _ => &[],
        }
    }
}
