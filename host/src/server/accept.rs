//! Which format a request for a page wants.

use super::raft_stat::Format;

/// The format asked for by name, else the one that the `Accept` header prefers; text if neither
/// says. Nothing if a format is named that there is not.
pub(crate) fn format(named: Option<&str>, accept: Option<&str>) -> Option<Format> {
    match named {
        Some("text") => Some(Format::Text),
        Some("json") => Some(Format::Json),
        Some(_) => None,
        None => Some(accept.map_or(Format::Text, preferred)),
    }
}

/// JSON if it is named and nothing named for text is preferred to it (RFC 9110 §12.5.1). Ranges
/// such as `*/*` name nothing: whoever takes everything gets text.
fn preferred(accept: &str) -> Format {
    let best = |wanted: fn(&str) -> bool| {
        let ranges = accept.split(',').map(range);
        let wanted = ranges
            .filter(|(kind, _)| wanted(kind))
            .map(|(_, weight)| weight);
        wanted.max().unwrap_or(0)
    };
    let json = best(|kind| kind == "application/json" || kind == "application/*");
    let text = best(|kind| kind.starts_with("text/"));
    match json > 0 && json >= text {
        true => Format::Json,
        false => Format::Text,
    }
}

/// A media range in lower case, and its weight in thousandths; what does not parse counts as 1.
fn range(text: &str) -> (String, u32) {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let weight = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("q")
            .then(|| thousandths(value.trim()))
    });
    (kind, weight.unwrap_or(1_000))
}

fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{fraction:0<3}");
    let parsed = digits
        .get(..3)
        .and_then(|digits| digits.parse::<u32>().ok());
    match (whole, parsed) {
        ("0" | "", Some(thousandths)) => thousandths,
        _ => 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_for_those_who_name_it() {
        for accept in [
            "application/json",
            "application/json, */*",
            "*/*, Application/JSON; q=0.8",
            "application/json;charset=utf-8, text/plain;q=0.5",
            "application/*",
        ] {
            assert_eq!(format(None, Some(accept)), Some(Format::Json), "{accept}");
        }
        for accept in [
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/plain, application/json;q=0.9",
            "application/json;q=0",
            "application/json;q=0.000, */*",
            "",
        ] {
            assert_eq!(format(None, Some(accept)), Some(Format::Text), "{accept}");
        }
        assert_eq!(format(None, None), Some(Format::Text));
    }

    #[test]
    fn a_named_format_wins() {
        assert_eq!(
            format(Some("text"), Some("application/json")),
            Some(Format::Text)
        );
        assert_eq!(format(Some("json"), None), Some(Format::Json));
        assert_eq!(format(Some("yaml"), Some("application/json")), None);
    }
}
