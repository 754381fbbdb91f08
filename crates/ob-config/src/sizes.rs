//! Amounts as people write them: `4G`, `4GiB`, `1.5`.

/// Reads a size: digits with at most one point, and `K`, `M`, `G` or `T`, upper or lower case, alone or with `B` or
/// `iB` behind. All units are powers of 1024, as container engines read them. Returns bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let number: f64 = number.parse().ok()?;
    bounded(number * f64::from(2_u32).powi(shift))
}

/// A size for people: in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// Reads a number, `2` or `0.5`, as thousandths.
pub fn parse_thousandths(text: &str) -> Option<u32> {
    let text = text.trim();
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let millis = bounded(text.parse::<f64>().ok()? * 1000.0)?;
    u32::try_from(millis).ok()
}

fn bounded(number: f64) -> Option<u64> {
    /// Above this not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if !number.is_finite() || !(0.0..=EXACT).contains(&number) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the line before")]
    Some(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        const G: u64 = 1 << 30;
        for (text, bytes) in [
            ("4G", Some(4 * G)),
            ("4g", Some(4 * G)),
            ("4GiB", Some(4 * G)),
            ("4 GB", Some(4 * G)),
            ("1.5G", Some(G + G / 2)),
            ("512m", Some(G / 2)),
            ("1T", Some(1024 * G)),
            ("4096", Some(4096)),
            ("7b", Some(7)),
            ("", None),
            ("G", None),
            ("-4G", None),
            ("4X", None),
            ("4G4", None),
            ("1.2.3G", None),
            (".", None),
            ("inf", None),
            ("1e9", None),
            ("99999999999999999999", None),
            ("18446744073709551615T", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn numbers_as_people_write_them() {
        for (text, millis) in [
            ("4", Some(4000)),
            ("0.5", Some(500)),
            (".25", Some(250)),
            ("", None),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("two", None),
            ("1e300", None),
        ] {
            assert_eq!(parse_thousandths(text), millis, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_divides_them() {
        for (bytes, text) in [(0, "0 bytes"), (1 << 30, "1 GiB"), (3 << 19, "1536 KiB"), (7, "7 bytes")] {
            assert_eq!(show_size(bytes), text);
        }
    }
}
