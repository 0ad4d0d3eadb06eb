//! Any bytes as one word of printable ASCII: what a path looks like in the session's configuration.
//!
//! Bytes outside `!`..=`~`, and `%`, are written as `%` and two capital hexadecimal digits. Nothing at all is written `-`, and a
//! lone `-` as `%2D`, so that a line always has the same number of words. Each value has exactly one form; any other is refused.

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// The word for `bytes`.
pub fn escape(bytes: &[u8]) -> String {
    match bytes {
        b"" => return "-".into(),
        b"-" => return "%2D".into(),
        _ => {}
    }
    let mut word = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'%' {
            word.push(char::from(byte));
        } else {
            word.push('%');
            word.push(char::from(DIGITS[usize::from(byte >> 4)]));
            word.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    word
}

/// The bytes that `word` stands for; `None` when `escape` would not have written it.
pub fn unescape(word: &[u8]) -> Option<Vec<u8>> {
    if word == b"-" {
        return Some(Vec::new());
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let [high, low, after @ ..] = after else { return None };
            bytes.push(digit(*high)? << 4 | digit(*low)?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    (escape(&bytes).as_bytes() == word).then_some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    DIGITS.iter().position(|&digit| digit == byte).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::{escape, unescape};
    use proptest::prelude::*;
    use rstest::rstest;

    proptest! {
        #[test]
        fn every_value_survives(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let word = escape(&bytes);
            prop_assert!(!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(unescape(word.as_bytes()), Some(bytes));
        }

        #[test]
        fn every_value_has_one_form(word in proptest::collection::vec(any::<u8>(), 0..8)) {
            if let Some(bytes) = unescape(&word) {
                prop_assert_eq!(escape(&bytes).into_bytes(), word);
            }
        }
    }

    #[rstest]
    #[case("")]
    #[case("%")]
    #[case("%2")]
    #[case("%2f")]
    #[case("%41")]
    #[case("%G0")]
    #[case("a b")]
    #[case("\u{e9}")]
    #[case("a%2D")]
    fn a_form_that_is_not_the_one_is_refused(#[case] word: &str) {
        assert_eq!(unescape(word.as_bytes()), None);
    }
}
