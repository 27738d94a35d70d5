//! Fields of a line.

use super::error::Malformed;

/// Largest file offset (2^63 - 1), as the operating system has it.
pub(super) const OFFSET_MAX: u64 = i64::MAX as u64;

/// A line's fields, taken from left to right.
pub(super) struct Fields<'a> {
    rest: Option<&'a [u8]>,
    comma: bool,
}

impl<'a> Fields<'a> {
    /// Fields between commas, which may be empty.
    pub(super) fn csv(line: &'a [u8]) -> Fields<'a> {
        Fields { rest: Some(line), comma: true }
    }

    /// Fields between blanks.
    pub(super) fn words(line: &'a [u8]) -> Fields<'a> {
        Fields { rest: Some(line), comma: false }
    }

    /// The next field as it stands there.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        let missing = || Malformed::new(field, "missing", b"");
        let rest = self.rest.take().ok_or_else(missing)?;
        let is_end = |b: &u8| if self.comma { *b == b',' } else { b.is_ascii_whitespace() };
        let Some(end) = rest.iter().position(is_end) else { return Ok(rest.trim_ascii()) };
        let (text, after) = rest.split_at(end);
        self.rest = Some(if self.comma { &after[1..] } else { after.trim_ascii_start() });
        Ok(text.trim_ascii())
    }

    /// The next field, which must not be empty.
    pub(super) fn name(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        let text = self.text(field)?;
        if text.is_empty() {
            return Err(Malformed::new(field, "must not be empty", text));
        }
        Ok(text)
    }

    /// The next field as a number of at most 2^63 - 1.
    pub(super) fn number(&mut self, field: &'static str) -> Result<u64, Malformed> {
        let text = self.text(field)?;
        let what = "must be a whole number from 0 to 2^63-1";
        decimal(text).ok_or_else(|| Malformed::new(field, what, text))
    }

    /// The next field as a point in time; only checked, never used.
    pub(super) fn time(&mut self, field: &'static str) -> Result<(), Malformed> {
        let text = self.text(field)?;
        let time = std::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok());
        match time {
            Some(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(()),
            _ => Err(Malformed::new(field, "must be a time in seconds", text)),
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_none()
    }

    /// There must be nothing left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.rest {
            None => Ok(()),
            Some(rest) => Err(Malformed::new("line", "has more fields than its format", rest)),
        }
    }
}

/// Digits only: neither a sign nor anything else that number parsers take.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for digit in text {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    (value <= OFFSET_MAX).then_some(value)
}

/// `count` units of `unit` bytes, if that is still an offset.
pub(super) fn scaled(field: &'static str, count: u64, unit: u64) -> Result<u64, Malformed> {
    let bytes = count.checked_mul(unit).filter(|&b| b <= OFFSET_MAX);
    let found = count.to_string();
    bytes.ok_or_else(|| Malformed::new(field, "lies past 2^63-1 bytes", found.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_by_comma_or_blank() {
        let mut csv = Fields::csv(b"a,, 7 ");
        assert_eq!(csv.text("x"), Ok(&b"a"[..]));
        assert_eq!(csv.text("x"), Ok(&b""[..]));
        assert_eq!(csv.number("x"), Ok(7));
        assert_eq!(csv.text("x").map_err(|e| e.what), Err("missing"));
        let mut words = Fields::words(b"1  2\t3");
        assert_eq!(
            (words.number("x"), words.number("x"), words.number("x")),
            (Ok(1), Ok(2), Ok(3))
        );
        assert!(words.end().is_ok());
        assert!(Fields::words(b"1").end().is_err());
    }

    #[test]
    fn only_plain_numbers_are_numbers() {
        assert_eq!(decimal(b"9223372036854775807"), Some(OFFSET_MAX));
        for text in
            ["", "-1", "+1", "1.0", "0x10", "9223372036854775808", "99999999999999999999", "1_0"]
        {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
        for text in ["-1", "nan", "inf", "", "x"] {
            assert!(Fields::csv(text.as_bytes()).time("time").is_err(), "{text}");
        }
        assert!(Fields::csv(b"1170089647.006510").time("time").is_ok());
    }
}
