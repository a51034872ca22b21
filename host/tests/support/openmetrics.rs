//! A strict reader of the OpenMetrics text format: it panics at whatever the format does not allow,
//! and at more than one way to say the same.

use std::collections::{BTreeMap, BTreeSet};

/// A page.
#[derive(Debug, Default)]
pub struct Exposition {
    /// By name, without the suffixes of samples.
    pub families: BTreeMap<String, Family>,
}

/// A family of samples.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// A line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With its suffix.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Exposition {
    /// Reads a whole page.
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("# EOF ends the page");
        assert!(body.is_empty() || body.ends_with('\n'));
        let mut page = Self::default();
        let mut current = None;
        for line in body.lines() {
            page.line(line, &mut current);
        }
        for (name, family) in &page.families {
            family.check(name);
        }
        page
    }

    fn line(&mut self, line: &str, current: &mut Option<String>) {
        let Some(comment) = line.strip_prefix("# ") else {
            let name = current.as_ref().expect("a sample needs a family");
            let family = self.families.get_mut(name).unwrap();
            assert!(!family.kind.is_empty(), "TYPE comes first: {line}");
            return family.samples.push(sample(line));
        };
        let mut words = comment.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("cut short: {line}"));
        let (what, name, rest) = (word(), word(), word());
        match what {
            "HELP" => {
                assert!(is_name(name) && !rest.is_empty(), "{line}");
                let before = self.families.insert(name.to_owned(), Family::default());
                assert!(before.is_none(), "a family comes once: {line}");
                *current = Some(name.to_owned());
            }
            "TYPE" => {
                assert_eq!(current.as_deref(), Some(name), "HELP comes first: {line}");
                let family = self.families.get_mut(name).unwrap();
                assert!(
                    family.kind.is_empty() && family.samples.is_empty(),
                    "{line}"
                );
                family.kind = rest.to_owned();
            }
            "UNIT" => {
                assert_eq!(current.as_deref(), Some(name), "{line}");
                assert!(name.ends_with(&format!("_{rest}")), "{line}");
                assert!(self.families[name].samples.is_empty(), "{line}");
            }
            _ => panic!("no comment of the format: {line}"),
        }
    }

    /// Every sample of a family, by the name that queries use.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        let all = self.families.values().flat_map(|family| &family.samples);
        all.filter(move |sample| sample.name == name)
    }

    /// Sum over all samples of that name that have these labels among theirs. Absent is zero.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            let mut labels = labels.iter();
            labels.all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        };
        self.samples(name)
            .filter(has)
            .map(|sample| sample.value)
            .sum()
    }

    /// Every value that a label has anywhere.
    pub fn label_values(&self, key: &str) -> BTreeSet<&str> {
        let all = self.families.values().flat_map(|family| &family.samples);
        all.filter_map(|sample| sample.labels.get(key).map(String::as_str))
            .collect()
    }
}

impl Family {
    /// Keys of its labels, but for the bounds of buckets.
    pub fn label_keys(&self) -> BTreeSet<String> {
        let keys = self.samples.iter().flat_map(|sample| sample.labels.keys());
        keys.filter(|key| *key != "le").cloned().collect()
    }

    fn check(&self, name: &str) {
        assert!(!self.samples.is_empty(), "{name} has no samples");
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            let key = (&sample.name, &sample.labels);
            assert!(seen.insert(key), "twice: {sample:?}");
        }
        let suffixes: &[&str] = match self.kind.as_str() {
            "gauge" => &[""],
            "counter" => &["_total"],
            "histogram" => return self.check_histogram(name),
            other => panic!("{name} is a {other}"),
        };
        for sample in &self.samples {
            let suffix = sample.name.strip_prefix(name);
            assert!(suffixes.contains(&suffix.unwrap_or("?")), "{sample:?}");
            assert!(!sample.labels.contains_key("le"), "{sample:?}");
            assert!(self.kind == "gauge" || sample.value >= 0.0, "{sample:?}");
        }
    }

    fn check_histogram(&self, name: &str) {
        let mut metrics: BTreeMap<_, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            labels.remove("le");
            metrics.entry(labels).or_default().push(sample);
        }
        for samples in metrics.values() {
            let of = |suffix: &str| {
                let full = format!("{name}{suffix}");
                let found = samples.iter().filter(move |sample| sample.name == full);
                found.copied().collect::<Vec<_>>()
            };
            let (sums, counts, buckets) = (of("_sum"), of("_count"), of("_bucket"));
            assert_eq!((sums.len(), counts.len()), (1, 1), "{samples:?}");
            assert_eq!(samples.len(), 2 + buckets.len(), "{samples:?}");
            assert!(sums[0].value >= 0.0);
            check_buckets(&buckets, counts[0].value);
        }
    }
}

fn check_buckets(buckets: &[&Sample], count: f64) {
    let bound = |sample: &Sample| match sample.labels["le"].as_str() {
        "+Inf" => f64::INFINITY,
        text => text.parse::<f64>().unwrap(),
    };
    for pair in buckets.windows(2) {
        assert!(bound(pair[0]) < bound(pair[1]), "{pair:?}");
        assert!(pair[0].value <= pair[1].value, "not cumulative: {pair:?}");
    }
    let last = buckets.last().expect("a histogram has buckets");
    assert_eq!((bound(last), last.value), (f64::INFINITY, count));
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(letter) && name.starts_with(|c: char| !c.is_ascii_digit())
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest),
        None => (BTreeMap::new(), rest),
    };
    let value = value.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    Sample {
        name: name.to_owned(),
        labels,
        value: value
            .parse()
            .unwrap_or_else(|_| panic!("no number: {line}")),
    }
}

/// The labels before the closing brace, and what follows it.
fn labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        let (key, value) = rest.split_once("=\"").expect("a label");
        assert!(is_name(key), "{rest}");
        let (value, after) = quoted(value);
        let before = labels.insert(key.to_owned(), value);
        assert!(before.is_none(), "a label twice: {rest}");
        if let Some(after) = after.strip_prefix('}') {
            return (labels, after);
        }
        rest = after.strip_prefix(',').expect("a comma between labels");
    }
}

/// A value up to its closing quote, and what follows it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, next)) = chars.next() {
        match next {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().map(|(_, escaped)| escaped) {
                Some('n') => value.push('\n'),
                Some(escaped @ ('\\' | '"')) => value.push(escaped),
                other => panic!("no escape: {other:?}"),
            },
            other => value.push(other),
        }
    }
    panic!("no closing quote: {text}");
}
