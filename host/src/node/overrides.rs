//! Settings changed while the node runs: what is laid over what, and how it is kept.
//!
//! A replica's settings are, each by the last that names it: the defaults, the configuration (file,
//! environment, flags), the node's overrides, the replica's own. Overrides are kept by name and as
//! text, as people gave them, so that a changed default or configuration shows through wherever
//! nobody said otherwise. Why: `docs/decisions/0007-settings-at-run-time.md`.

use super::registry::RecordError;
use super::settings::{SettingError, find, set};
use kontiki_proto::v1;
use kontiki_raft::Settings;
use prost::Message as _;
use std::collections::BTreeMap;

/// First byte of a record: its format.
const FORMAT: u8 = 1;

/// Values that stand for one another: setting the first alone sets the second too, so undoing one
/// undoes both.
const TIMERS: [&str; 2] = ["election_timeout", "max_clock_drift"];

/// Settings of a node, or of one replica, that were changed while it ran; by name, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides(BTreeMap<String, String>);

/// How overrides change.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Sets these, by name. The election timeout alone keeps its sum with the clock drift.
    Set(BTreeMap<String, String>),
    /// Undoes these, or all if none is named.
    Reset(Vec<String>),
}

impl Overrides {
    /// Whether one is there for this setting.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// `base` with these laid over it.
    ///
    /// # Errors
    /// `Invalid` or `Range` if the result is not valid as a whole.
    pub(crate) fn over(&self, base: &Settings) -> Result<Settings, SettingError> {
        let mut settings = base.clone();
        for (name, value) in &self.0 {
            set(&mut settings, name, value)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// These overrides after `edit`, valid over `base`.
    ///
    /// # Errors
    /// Names the first setting that is unknown or outside its range.
    pub(crate) fn edited(&self, base: &Settings, edit: &Edit) -> Result<Self, SettingError> {
        let edited = match edit {
            Edit::Set(values) => self.with(base, values)?,
            Edit::Reset(names) => self.without(names)?,
        };
        edited.over(base)?;
        Ok(edited)
    }

    fn with(
        &self,
        base: &Settings,
        values: &BTreeMap<String, String>,
    ) -> Result<Self, SettingError> {
        let before = self.over(base)?;
        let mut after = before.clone();
        let mut named: Vec<&str> = Vec::new();
        for (name, value) in values {
            let setting = find(name)?;
            set(&mut after, name, value)?;
            named.push(setting.name);
        }
        let [timeout, drift] = TIMERS;
        if named.contains(&timeout) && !named.contains(&drift) {
            let timers = before.with_timeouts(after.election_timeout, None)?;
            if timers.max_clock_drift.is_zero() && !before.max_clock_drift.is_zero() {
                return Err(no_drift_left(&after));
            }
            after.max_clock_drift = timers.max_clock_drift;
            named.push(drift);
        }
        let mut overrides = self.clone();
        for name in named {
            overrides
                .0
                .insert(name.to_owned(), find(name)?.value(&after));
        }
        Ok(overrides)
    }

    fn without(&self, names: &[String]) -> Result<Self, SettingError> {
        let mut gone: Vec<&str> = Vec::new();
        for name in names {
            let name = find(name)?.name;
            gone.push(name);
            if TIMERS.contains(&name) {
                gone.extend(TIMERS);
            }
        }
        let stays = |name: &str| !names.is_empty() && !gone.contains(&name);
        let kept = self.0.iter().filter(|(name, _)| stays(name));
        Ok(Self(kept.map(|(n, v)| (n.clone(), v.clone())).collect()))
    }
}

/// The election timeout alone would leave no clock drift at all, without a word.
fn no_drift_left(wanted: &Settings) -> SettingError {
    let [timeout, _] = TIMERS;
    let value = humantime::format_duration(wanted.election_timeout).to_string();
    let why = format!(
        "alone it keeps its sum with max_clock_drift and would leave that at 0; name both, as in \
         `{timeout}={value} max_clock_drift=500ms`"
    );
    SettingError::Invalid {
        name: timeout,
        value,
        why,
    }
}

/// What a node keeps of itself or of one replica, apart from what it has in common with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// Settings changed while it ran.
    pub(crate) overrides: Overrides,
    /// A replica's read-only mode, which a restart must not end: often a disk is filling up.
    pub(crate) read_only: bool,
}

impl Own {
    /// Puts it into a versioned record.
    pub(crate) fn record(&self) -> Vec<u8> {
        let message = v1::LocalState {
            settings: self.overrides.0.clone().into_iter().collect(),
            read_only: self.read_only,
        };
        let mut body = vec![FORMAT];
        message.encode(&mut body).expect("a vector grows as needed");
        body
    }

    /// Takes it from its record; what nobody kept is as it was at first. A setting that this
    /// version does not know, or whose value it refuses, is passed over and reported.
    ///
    /// # Errors
    /// `Newer` or `Damaged`.
    pub(crate) fn from_record(record: Option<&[u8]>) -> Result<Self, RecordError> {
        let Some(record) = record else {
            return Ok(Self::default());
        };
        let body = match record.split_first() {
            Some((&FORMAT, body)) => body,
            Some((&newer, _)) => return Err(RecordError::Newer(newer)),
            None => return Err(RecordError::Damaged("it is empty")),
        };
        let message =
            v1::LocalState::decode(body).map_err(|_| RecordError::Damaged("no message"))?;
        let mut overrides = BTreeMap::new();
        for (name, value) in message.settings {
            match set(&mut Settings::default(), &name, &value) {
                Ok(()) => drop(overrides.insert(name, value)),
                Err(error) => tracing::warn!(%error, "a setting kept from before is passed over"),
            }
        }
        Ok(Self {
            overrides: Overrides(overrides),
            read_only: message.read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn values(text: &str) -> Edit {
        let pairs = text.split_whitespace().filter_map(|p| p.split_once('='));
        Edit::Set(pairs.map(|(n, v)| (n.into(), v.into())).collect())
    }

    fn reset(names: &str) -> Edit {
        Edit::Reset(names.split_whitespace().map(str::to_owned).collect())
    }

    fn timers(settings: &Settings) -> (Duration, Duration) {
        (settings.election_timeout, settings.max_clock_drift)
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_timeout_alone_keeps_the_sum_and_both_are_kept_and_undone_together() {
        let base = Settings::default();
        let none = Overrides::default();
        let one = none
            .edited(&base, &values("election_timeout=1500ms"))
            .unwrap();
        assert_eq!(timers(&one.over(&base).unwrap()), (ms(1_500), ms(500)));
        // Doing it again does nothing.
        let again = one
            .edited(&base, &values("election_timeout=1500ms"))
            .unwrap();
        assert_eq!(again, one);
        let both = one
            .edited(&base, &values("election_timeout=3s max_clock_drift=100ms"))
            .unwrap();
        assert_eq!(timers(&both.over(&base).unwrap()), (ms(3_000), ms(100)));
        assert_eq!(both.edited(&base, &reset("max_clock_drift")), Ok(none));
        let drift = one.edited(&base, &values("max_clock_drift=2s")).unwrap();
        assert_eq!(timers(&drift.over(&base).unwrap()), (ms(1_500), ms(2_000)));
    }

    #[test]
    fn an_edit_is_refused_whole() {
        let base = Settings::default();
        let none = Overrides::default();
        for (text, named) in [
            ("election_timeout=2001ms", "max_clock_drift"),
            (
                "priority=1 election_timeout=19ms max_clock_drift=0s",
                "20 ms",
            ),
            ("priority=1 nothing=2", "nothing"),
            ("priority=x", "priority"),
            ("election_spread_max=0s", "election_spread_max"),
            (
                "entry_size_bytes_max=64000000 uncommitted_size_bytes_max=1000",
                "uncommitted",
            ),
        ] {
            let error = none.edited(&base, &values(text)).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(none.edited(&base, &reset("nothing")).is_err());
    }

    #[test]
    fn one_reset_leaves_the_others_and_one_without_names_none() {
        let base = Settings::default();
        let some = Overrides::default()
            .edited(&base, &values("priority=7 heartbeat_factor=5"))
            .unwrap();
        let one = some.edited(&base, &reset("priority")).unwrap();
        assert!(!one.has("priority") && one.has("heartbeat_factor"));
        assert_eq!(some.edited(&base, &reset("")), Ok(Overrides::default()));
    }

    #[test]
    fn a_record_comes_back_and_what_is_not_known_is_passed_over() {
        let base = Settings::default();
        let overrides = Overrides::default().edited(&base, &values("priority=7"));
        let own = Own {
            overrides: overrides.unwrap(),
            read_only: true,
        };
        assert_eq!(Own::from_record(Some(&own.record())), Ok(own.clone()));
        assert_eq!(Own::from_record(None), Ok(Own::default()));
        let mut strange = own.clone();
        strange
            .overrides
            .0
            .insert("of_a_later_version".into(), "1".into());
        assert_eq!(Own::from_record(Some(&strange.record())), Ok(own));
        assert_eq!(Own::from_record(Some(&[9])), Err(RecordError::Newer(9)));
        assert!(Own::from_record(Some(&[])).is_err());
    }

    #[test]
    fn an_election_timeout_that_alone_would_leave_no_drift_is_refused() {
        let base = Settings::default();
        let sum = base.election_timeout + base.max_clock_drift;
        let alone = values(&format!("election_timeout={}ms", sum.as_millis()));
        let refused = Overrides::default().edited(&base, &alone).unwrap_err();
        assert!(refused.to_string().contains("name both"), "{refused}");
        let both = format!("election_timeout={}ms max_clock_drift=0s", sum.as_millis());
        assert!(Overrides::default().edited(&base, &values(&both)).is_ok());
    }
}
