//! ISO 8601 durations, as far as lives of values and schedules need them: whole years, months, weeks, days, hours,
//! minutes and seconds.

use std::time::Duration;

/// Reads `P1D`, `PT1H30M`, `P2W`, `P1M`. A year is 365 days and a month a twelfth of it: what follows
/// needs a length, no date.
pub fn parse(text: &str) -> Option<Duration> {
    let rest = text.trim().strip_prefix('P')?;
    let (days, time) = rest.split_once('T').map_or((rest, None), |(days, time)| (days, Some(time)));
    if time == Some("") || (days.is_empty() && time.is_none()) {
        return None;
    }
    let days = sum(days, &[('Y', YEAR), ('M', YEAR / 12), ('W', 604_800), ('D', 86_400)])?;
    let seconds =
        days.checked_add(sum(time.unwrap_or_default(), &[('H', 3_600), ('M', 60), ('S', 1)])?)?;
    Some(Duration::from_secs(seconds))
}

/// Seconds.
const YEAR: u64 = 365 * 86_400;

/// Adds up numbers with their units, which come in this order and once at most.
fn sum(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut total = 0_u64;
    for (unit, seconds) in units {
        if let Some((number, rest)) = text.split_once(*unit) {
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*seconds)?)?;
            text = rest;
        }
    }
    text.is_empty().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nonsense_is_not() {
        let seconds = |text| parse(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("P1D"), Some(86_400));
        assert_eq!(seconds("PT1H30M"), Some(5_400));
        assert_eq!(seconds("P1W2DT3S"), Some(604_800 + 2 * 86_400 + 3));
        assert_eq!(seconds("P1Y2M"), Some(365 * 86_400 + 2 * 2_628_000));
        assert_eq!(seconds("P1MT1M"), Some(2_628_060));
        assert_eq!(seconds("PT0S"), Some(0));
        for bad in [
            "",
            "P",
            "PT",
            "P1DT",
            "1D",
            "P1D1M",
            "P1H",
            "PT1M1H",
            "P-1D",
            "PTS",
            "P1.5D",
            "PT99999999999999999999S",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
