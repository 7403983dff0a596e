//! The words that the simulator says, one a token. It starts over where a query wants more tokens than there are words.

/// Ready-made contents: every word with the space that follows it, as the origin system sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseText(Vec<String>);

/// The text that is said unless another is configured: 18 words.
pub const DEFAULT_TEXT: &str =
    "This is a simulated answer that streams word by word so that every single token can be counted.";

impl ResponseText {
    /// Splits a text at its white space; `None` where it has no word.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split_whitespace().map(|word| format!("{word} ")).collect();
        (!words.is_empty()).then_some(Self(words))
    }

    /// How many words it has.
    #[must_use]
    pub fn words(&self) -> u64 {
        self.0.len() as u64
    }

    /// The content of the token `index` (from 0) of `tokens`: a word and a space, the last one without. So the contents
    /// of a query, joined, are the text.
    #[must_use]
    pub fn content(&self, index: u64, tokens: u64) -> &str {
        let content = &self.0[(index % self.words()) as usize];
        if index + 1 == tokens { content.trim_end() } else { content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_join_to_the_text() {
        let text = ResponseText::new(DEFAULT_TEXT).unwrap();
        assert_eq!(text.words(), 18);
        let joined: String = (0..18).map(|k| text.content(k, 18)).collect();
        assert_eq!(joined, DEFAULT_TEXT);
        let short = ResponseText::new(" a  b\n").unwrap();
        assert_eq!((0..5).map(|k| short.content(k, 5)).collect::<String>(), "a b a b a");
        assert_eq!(ResponseText::new(" \n"), None);
    }
}
