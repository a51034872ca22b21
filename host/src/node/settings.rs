//! Settings by name: one table serves the configuration file, the admin service and `/flags`.
//!
//! All of them can be changed while a replica runs: limits are looked at when they are needed, timers
//! start anew, and leases bear members that differ ([`kontiki_raft::Settings`] says it of each).

use kontiki_raft::{Settings, SettingsError};
use std::time::Duration;

/// One setting of a replica.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its range, in words.
    pub range: &'static str,
    /// What it does.
    pub help: &'static str,
    /// braft's name for it; empty if it has none.
    pub braft_name: &'static str,
    get: fn(&Settings) -> String,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// Why a setting was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is none of that name.
    #[error("there is no setting {0:?}; see `kontiki settings`")]
    Unknown(String),
    /// The value does not parse or is outside the range.
    #[error("{value:?} is no value for {name}: {why}")]
    Invalid {
        /// Which setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        why: String,
    },
    /// The settings do not go together, or one is outside its range.
    #[error(transparent)]
    Range(#[from] SettingsError),
}

/// A value with a textual form.
trait Value: Sized {
    fn show(&self) -> String;
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for Duration {
    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|error| error.to_string())
    }
}

macro_rules! value_by_from_str {
    ($($kind:ty),*) => {$(
        impl Value for $kind {
            fn show(&self) -> String {
                self.to_string()
            }

            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: <$kind as std::str::FromStr>::Err| error.to_string())
            }
        }
    )*};
}

value_by_from_str!(usize, u32, u64, bool);

macro_rules! setting {
    ($field:ident, $braft:literal, $range:literal, $help:literal) => {
        Setting {
            name: stringify!($field),
            range: $range,
            help: $help,
            braft_name: $braft,
            get: |settings| settings.$field.show(),
            set: |settings, text| Value::parse(text).map(|value| settings.$field = value),
        }
    };
}

/// Every setting of a replica.
pub static SETTINGS: &[Setting] = &[
    setting!(
        election_timeout,
        "election_timeout_ms",
        "20 ms to 10 min",
        "silence after which a follower campaigns; set alone, its sum with max_clock_drift stays"
    ),
    setting!(
        election_spread_max,
        "raft_max_election_delay_ms",
        "at least 1 ms",
        "upper bound of the random part of the election timeout"
    ),
    setting!(
        heartbeat_factor,
        "raft_election_heartbeat_factor",
        "2 to 100",
        "heartbeats per election timeout"
    ),
    setting!(
        max_clock_drift,
        "max_clock_drift_ms",
        "at most 10 min",
        "added to a follower's lease: no less than clocks may differ by within election_timeout"
    ),
    setting!(
        leader_lease,
        "raft_enable_leader_lease",
        "true or false",
        "promise leader leases as a follower, use them as a leader"
    ),
    setting!(
        priority,
        "",
        "0 or more; 0 never campaigns",
        "who leads rather: higher is preferred where several could"
    ),
    setting!(
        priority_takeover,
        "",
        "true or false",
        "a leader hands over to a voter of higher priority that keeps up"
    ),
    setting!(
        append_entries_max,
        "raft_max_entries_size",
        "1 to 65536",
        "entries in one AppendEntries"
    ),
    setting!(
        append_size_bytes_max,
        "raft_max_body_size",
        "at least 1 KiB",
        "payload bytes in one AppendEntries"
    ),
    setting!(
        inflight_messages_max,
        "raft_max_parallel_append_entries_rpc_num",
        "1 to 4096",
        "AppendEntries in flight to one follower"
    ),
    setting!(
        inflight_size_bytes_max,
        "",
        "at least 1 KiB",
        "bytes in flight to one follower"
    ),
    setting!(
        entry_size_bytes_max,
        "",
        "1 B to 64 MiB",
        "largest command accepted"
    ),
    setting!(
        uncommitted_size_bytes_max,
        "",
        "at least entry_size_bytes_max",
        "bytes appended but not committed before commands are refused as busy"
    ),
    setting!(
        apply_inflight_entries_max,
        "",
        "at least 1",
        "entries handed to the plugin but not yet applied"
    ),
    setting!(
        cache_size_bytes_max,
        "",
        "any",
        "bytes of recent entries kept in memory"
    ),
    setting!(
        catch_up_margin_entries,
        "catchup_margin",
        "any",
        "a new member counts as caught up within this many entries"
    ),
    setting!(
        catch_up_timeout,
        "catchup_timeout_ms",
        "any",
        "time a new voter has to catch up; begins anew for as long as it answers: \
         `kontiki member cancel` ends it"
    ),
    setting!(
        disk_stall_timeout,
        "",
        "any; 0 never",
        "a leader whose own write takes longer gives up leadership"
    ),
    setting!(
        retry_interval,
        "raft_retry_replicate_interval_ms",
        "at least 1 ms",
        "wait before an unanswered probe is repeated, election_timeout at most"
    ),
    setting!(
        step_down_on_vote_timeout,
        "raft_step_down_when_vote_timedout",
        "true or false",
        "give up a vote that did not finish and pre-vote again; off, as in braft, a candidate that is \
         cut off raises its term for ever, unless a lease binds it"
    ),
];

/// The setting of that name.
///
/// # Errors
/// [`SettingError::Unknown`].
pub fn find(name: &str) -> Result<&'static Setting, SettingError> {
    let found = SETTINGS.iter().find(|setting| setting.name == name);
    found.ok_or_else(|| SettingError::Unknown(name.to_owned()))
}

/// Changes one setting in `settings`. Ranges that span settings are checked by
/// [`Settings::check`].
///
/// # Errors
/// [`SettingError::Unknown`] or [`SettingError::Invalid`].
pub fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), SettingError> {
    let setting = find(name)?;
    (setting.set)(settings, value).map_err(|why| SettingError::Invalid {
        name: setting.name,
        value: value.to_owned(),
        why,
    })
}

impl Setting {
    /// Its value in `settings`, as text that [`set`] takes back.
    #[must_use]
    pub fn value(&self, settings: &Settings) -> String {
        (self.get)(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_back_what_it_shows() {
        let defaults = Settings::default();
        let mut settings = defaults.clone();
        for setting in SETTINGS {
            set(&mut settings, setting.name, &setting.value(&defaults)).unwrap();
        }
        assert_eq!(settings, defaults);
    }

    #[test]
    fn bad_names_and_values_are_refused() {
        let mut settings = Settings::default();
        assert!(matches!(
            set(&mut settings, "x", "1"),
            Err(SettingError::Unknown(_))
        ));
        let error = set(&mut settings, "priority", "-1").unwrap_err();
        assert!(matches!(
            error,
            SettingError::Invalid {
                name: "priority",
                ..
            }
        ));
        assert_eq!(settings, Settings::default());
    }

    /// Rows of tables in the page for people who come from braft: what is in backticks in the first
    /// cell, and in the others.
    fn rows() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
        let page = include_str!("../../docs/operations/from-braft.md");
        let ticked = |cell: &'static str| cell.split('`').skip(1).step_by(2);
        let rows = page.lines().filter_map(|line| line.strip_prefix('|'));
        rows.filter_map(|row| row.split_once('|'))
            .map(|(braft, ours)| (ticked(braft).collect(), ticked(ours).collect()))
            .collect()
    }

    #[test]
    fn the_page_for_people_from_braft_says_the_same_names() {
        for setting in SETTINGS {
            let (name, braft) = (setting.name, setting.braft_name);
            let named: Vec<_> = match braft {
                "" => rows()
                    .into_iter()
                    .filter(|(_, o)| o.contains(&name))
                    .collect(),
                _ => rows()
                    .into_iter()
                    .filter(|(b, _)| b.contains(&braft))
                    .collect(),
            };
            assert!(!named.is_empty(), "{name} ({braft}) is in no row");
            for (_, ours) in named {
                assert!(
                    ours.contains(&name),
                    "{braft} is {name}, but the page says {ours:?}"
                );
            }
        }
    }

    #[test]
    fn the_table_covers_every_field() {
        let fields = format!("{:?}", Settings::default()).matches(": ").count();
        assert_eq!(fields, SETTINGS.len());
    }
}
