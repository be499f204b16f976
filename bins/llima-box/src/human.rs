//! Numbers as people read them.

/// `bytes` in the unit that leaves few digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // 1023.95 would be rounded to 1024.0
    while amount >= 1023.95 && units.len() > 0 {
        amount /= 1024.0;
        unit = units.next();
    }
    format!("{amount:.1} {}", unit.unwrap_or(&"B"))
}

/// How long ago something was that is `seconds` back.
pub(crate) fn ago(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..MINUTE => "just now".to_owned(),
        MINUTE..HOUR => format!("{} ago", count(seconds / MINUTE, "minute")),
        HOUR..DAY => format!("{} ago", count(seconds / HOUR, "hour")),
        _ if seconds < 30 * DAY => format!("{} ago", count(seconds / DAY, "day")),
        _ if seconds < 365 * DAY => format!("{} ago", count(seconds / (30 * DAY), "month")),
        _ => format!("{} ago", count(seconds / (365 * DAY), "year")),
    }
}

/// `number` of things, in the plural where it is due.
pub(crate) fn count(number: u64, thing: &str) -> String {
    match (number, thing.strip_suffix('s')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(_)) => format!("{number} {thing}es"),
        _ => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_told_in_the_largest_unit() {
        let cases = [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (3599, "59 minutes ago"),
            (7200, "2 hours ago"),
            (86400, "1 day ago"),
            (86400 * 45, "1 month ago"),
            (86400 * 800, "2 years ago"),
        ];
        for (seconds, text) in cases {
            assert_eq!(ago(seconds), text);
        }
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(0, "process"), "0 processes");
        assert_eq!(count(2, "environment"), "2 environments");
    }
}
