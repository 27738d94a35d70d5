//! Sizes and durations as people write and read them.

/// `n` bytes with a binary unit, such as `1.50 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.995 would be printed as "1024".
    while value >= 1023.995 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value.fract() == 0.0 { 0 } else { decimals(value) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Bytes per second as `812 MB/s`; decimal units, as disks are sold.
pub(crate) fn rate(gb_per_s: f64) -> String {
    let mb = gb_per_s * 1000.0;
    if mb >= 1000.0 {
        return format!("{gb_per_s:.2} GB/s");
    }
    format!("{mb:.*} MB/s", decimals(mb))
}

/// A duration with three significant digits.
pub(crate) fn seconds(s: f64) -> String {
    if s < 0.9995 {
        let ms = s * 1000.0;
        return format!("{ms:.*} ms", decimals(ms));
    }
    format!("{s:.*} s", decimals(s))
}

/// The same for times that may be very short: `3.21 us`.
pub(crate) fn seconds_short(s: f64) -> String {
    let us = s * 1e6;
    if us < 999.5 {
        return format!("{us:.*} us", decimals(us));
    }
    seconds(s)
}

/// Three significant digits.
fn decimals(value: f64) -> usize {
    match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    }
}

/// Reads a size: bytes, or a number (with a fraction, if wanted) and a unit. `K`, `KiB`, `M`, `MiB`
/// and so on are powers of 1024; `KB`, `MB` and so on powers of 1000. Case does not matter.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit_bytes(unit.trim())
        .ok_or_else(|| format!("unknown unit {:?}: use KiB, MiB, GiB or TiB", unit.trim()))?;
    // Whole numbers exactly; a double holds only 53 bits.
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(|| "too large".to_owned());
    }
    let value: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    let bytes = value * unit as f64;
    if !bytes.is_finite() || bytes >= u64::MAX as f64 {
        return Err("too large".to_owned());
    }
    Ok(bytes as u64)
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    if lower.is_empty() || lower == "b" {
        return Some(1);
    }
    let mut letters = lower.chars();
    let power = "kmgt".find(letters.next()?)? as u32 + 1;
    match letters.as_str() {
        "" | "i" | "ib" => Some(1024u64.pow(power)),
        "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, want) in [
            ("0", 0),
            ("4096", 4096),
            ("12b", 12),
            ("64k", 64 << 10),
            ("256MiB", 256 << 20),
            ("256 mib", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("2GB", 2_000_000_000),
            ("1Ti", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn nonsense_sizes_are_refused_with_a_reason() {
        for text in ["", "MiB", "1.2.3", "-1", "1XiB", "5 eggs", "99999999999999T", "1e9", "nan"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_with_three_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB"),
            (256 << 20, "256 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (12_345_678, "11.8 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (n, want) in cases {
            assert_eq!(bytes(n), want);
        }
    }

    #[test]
    fn rates_and_durations_pick_their_unit() {
        assert_eq!(rate(2.345), "2.35 GB/s");
        assert_eq!(rate(0.4567), "457 MB/s");
        assert_eq!(rate(0.0012), "1.20 MB/s");
        assert_eq!(seconds(1.5), "1.50 s");
        assert_eq!(seconds(0.9999), "1.00 s");
        assert_eq!(seconds(0.0123), "12.3 ms");
        assert_eq!(seconds(75.24), "75.2 s");
        assert_eq!(seconds_short(0.00000321), "3.21 us");
        assert_eq!(seconds_short(0.0009996), "1.00 ms");
    }
}
