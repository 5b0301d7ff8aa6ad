//! One line of the combined log format:
//! `host ident user [time] "method target protocol" status bytes "referer" "user agent"`.

use std::borrow::Cow;

/// A line, taken apart. `-` stands where the server wrote it.
#[derive(Debug, PartialEq)]
pub struct Line<'a> {
    pub host: &'a str,
    pub user: &'a str,
    pub time_ms: i64,
    pub method: &'a str,
    pub target: &'a str,
    pub protocol: &'a str,
    pub status: u16,
    /// 0 where the server wrote `-`.
    pub bytes: i64,
    pub referer: Cow<'a, str>,
    pub user_agent: Cow<'a, str>,
}

impl<'a> Line<'a> {
    /// Takes a line apart; the error names the part that cannot be read.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        let mut rest = text;
        let host = word(&mut rest).ok_or("the host")?;
        word(&mut rest).ok_or("the identity")?;
        let (user, after) = rest.split_once(" [").ok_or("the user")?;
        let (time, after) = after.split_once("] \"").ok_or("the time")?;
        let time_ms = time_ms(time).ok_or("the time")?;
        rest = after;
        let request = quoted(&mut rest).ok_or("the request")?;
        let mut parts = match &request {
            Cow::Borrowed(request) => request.splitn(3, ' '),
            // A quoted character in a request is nothing that a client sends by accident: it stays as it was written.
            Cow::Owned(_) => after[..after.len() - rest.len() - 1].splitn(3, ' '),
        };
        let method = parts.next().filter(|method| method.bytes().all(|b| b.is_ascii_uppercase()));
        let method = method.filter(|method| !method.is_empty()).ok_or("the method")?;
        let target = parts.next().ok_or("the target")?;
        let protocol = parts.next().filter(|protocol| protocol.starts_with("HTTP/")).ok_or("the protocol")?;
        rest = rest.strip_prefix(' ').ok_or("the status")?;
        let status = word(&mut rest).and_then(|word| word.parse().ok()).filter(|status| (100..600).contains(status));
        let status = status.ok_or("the status")?;
        let (bytes, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let bytes = if bytes == "-" { 0 } else { bytes.parse().ok().filter(|bytes| *bytes >= 0).ok_or("the size")? };
        rest = after;
        // The common format ends here.
        let (mut referer, mut user_agent) = (Cow::Borrowed("-"), Cow::Borrowed("-"));
        if !rest.is_empty() {
            rest = rest.strip_prefix('"').ok_or("the referer")?;
            referer = quoted(&mut rest).ok_or("the referer")?;
            rest = rest.strip_prefix(" \"").ok_or("the user agent")?;
            user_agent = quoted(&mut rest).ok_or("the user agent")?;
        }
        Ok(Self { host, user, time_ms, method, target, protocol, status, bytes, referer, user_agent })
    }
}

/// The text up to the next space.
fn word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (word, after) = rest.split_once(' ')?;
    *rest = after;
    (!word.is_empty()).then_some(word)
}

/// The text up to the closing quote; `\"` and `\\` are resolved.
fn quoted<'a>(rest: &mut &'a str) -> Option<Cow<'a, str>> {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => {
                let (text, after) = (&rest[..at], &rest[at + 1..]);
                *rest = after;
                let has_escapes = text.contains('\\');
                return Some(match has_escapes {
                    true => text.replace("\\\"", "\"").replace("\\\\", "\\").into(),
                    false => text.into(),
                });
            }
            _ => {}
        }
    }
    None
}

/// `10/Oct/2000:13:55:36 -0700` in milliseconds since 1970.
fn time_ms(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse::<i64>().ok()
    };
    let is = |at: usize, c: u8| text.as_bytes().get(at) == Some(&c);
    if text.len() != 26
        || ![(2, b'/'), (6, b'/'), (11, b':'), (14, b':'), (17, b':'), (20, b' ')].iter().all(|&(at, c)| is(at, c))
    {
        return None;
    }
    let month = (1..).zip(MONTHS).find(|(_, name)| text.get(3..6) == Some(name))?.0;
    let (day, year, hour, minute, second) =
        (number(0..2)?, number(7..11)?, number(12..14)?, number(15..17)?, number(18..20)?);
    let zone = number(22..24)? * 60 + number(24..26)?;
    let zone = if is(21, b'-') { -zone } else { zone };
    if !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((((days(year, month, day) * 24 + hour) * 60 + minute - zone) * 60 + second) * 1000)
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `%2e` and `+` resolved, twice, since attackers encode twice.
pub fn percent_decoded(text: &str) -> String {
    let once = |text: &str| {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
            match (first, hex) {
                (b'%', Some(byte)) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                (b'+', _) => {
                    bytes.push(b' ');
                    rest = after;
                }
                (byte, _) => {
                    bytes.push(*byte);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    once(&once(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "10/Oct/2000:13:55:36 -0700";

    #[test]
    fn times_count_from_1970_in_utc() {
        assert_eq!(time_ms(TIME), Some(971_211_336_000));
        assert_eq!(time_ms("01/Jan/1970:00:00:00 +0000"), Some(0));
        assert_eq!(time_ms("29/Feb/2024:12:00:00 +0530"), Some(1_709_188_200_000));
        assert_eq!(time_ms("10/Okt/2000:13:55:36 -0700"), None);
        assert_eq!(time_ms("10/Oct/2000:25:55:36 -0700"), None);
    }

    #[test]
    fn quotes_inside_are_resolved() {
        let text = format!(r#"h - - [{TIME}] "GET / HTTP/1.1" 200 5 "-" "say \"hi\"""#);
        assert_eq!(Line::parse(&text).map(|line| line.user_agent.into_owned()), Ok(r#"say "hi""#.to_owned()));
    }

    #[test]
    fn whatever_is_cut_off_is_an_error_and_no_panic() {
        let text = format!(r#"h - Jürgen [{TIME}] "GET /ü HTTP/1.1" 200 5 "r" "ü""#);
        for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            let _ = Line::parse(&text[..cut]);
        }
        assert_eq!(Line::parse("").err(), Some("the host"));
        assert!(Line::parse(&text).is_ok());
    }

    #[test]
    fn encoding_twice_hides_nothing() {
        assert_eq!(percent_decoded("/%252e%252e/a+b%"), "/../a b%");
    }
}
