//! Colours, where they are wanted.

/// Puts colours on words, or leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    colour: bool,
}

impl Paint {
    /// With colours or without.
    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// Without colours.
    pub fn plain() -> Self {
        Self::new(false)
    }

    /// What went well.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// What went wrong.
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// What somebody should look at.
    pub fn warn(self, text: &str) -> String {
        self.with("1;33", text)
    }

    /// What to do.
    pub fn hint(self, text: &str) -> String {
        self.with("1;36", text)
    }

    /// What matters.
    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self.colour {
            true if !text.is_empty() => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            _ => text.to_owned(),
        }
    }
}
