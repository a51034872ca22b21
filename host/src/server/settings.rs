//! Showing and changing settings while the node runs.

use super::Shared;
use super::status::{Fault, Reason};
use crate::node::context::lock;
use crate::node::handle::GroupHandle;
use crate::node::request::{Control, Order};
use crate::node::settings::{SETTINGS, SettingError, find, set};
use kontiki_proto::v1;
use kontiki_raft::Settings;
use std::collections::BTreeMap;

impl From<SettingError> for Fault {
    fn from(error: SettingError) -> Self {
        let reason = match error {
            SettingError::Fixed(_) => Reason::SettingFixed,
            SettingError::Unknown(_) | SettingError::Invalid { .. } => Reason::SettingInvalid,
        };
        Self::new(reason, error.to_string())
    }
}

/// The settings of a group's replica here, or of the node if `group` is empty.
pub(crate) async fn get(shared: &Shared, group: &str) -> Result<v1::GetSettingsReply, Fault> {
    let settings = match group {
        "" => shared.context.settings(),
        name => in_force(shared, &shared.group(name)?).await?,
    };
    let shown = |setting: &crate::node::settings::Setting| v1::Setting {
        name: setting.name.to_owned(),
        value: setting.value(&settings),
        range: setting.range.to_owned(),
        help: setting.help.to_owned(),
        braft_name: setting.braft_name.to_owned(),
        changeable: setting.changeable,
    };
    Ok(v1::GetSettingsReply {
        settings: SETTINGS.iter().map(shown).collect(),
    })
}

/// The node's settings, with what was changed for this group.
async fn in_force(shared: &Shared, group: &GroupHandle) -> Result<Settings, Fault> {
    let status = group
        .status()
        .await
        .map_err(|failure| shared.explain(group, failure))?;
    Ok(Settings {
        election_timeout: status.core.election_timeout,
        max_clock_drift: status.core.max_clock_drift,
        priority: status.core.priority,
        ..shared.context.settings()
    })
}

/// Changes settings of one group here, or of every group and those to come if `group` is empty.
/// All are checked before any is changed.
pub(crate) async fn change(
    shared: &Shared,
    group: &str,
    values: BTreeMap<String, String>,
) -> Result<v1::GetSettingsReply, Fault> {
    if values.is_empty() {
        return Err(Fault::invalid("no setting is named"));
    }
    let mut groups = Vec::new();
    let mut wanted = shared.context.settings();
    if group.is_empty() {
        groups.extend(shared.context.router.all());
    } else {
        let group = shared.group(group)?;
        wanted = in_force(shared, &group).await?;
        groups.push(group);
    }
    for (name, value) in &values {
        let setting = find(name)?;
        if !setting.changeable {
            return Err(SettingError::Fixed(setting.name).into());
        }
        set(&mut wanted, name, value)?;
    }
    wanted
        .check()
        .map_err(|error| Fault::new(Reason::SettingInvalid, error.to_string()))?;
    for group in &groups {
        apply(group, &wanted, &values)
            .await
            .map_err(|fault| shared.explain(group, fault))?;
    }
    if group.is_empty() {
        *lock(&shared.context.settings) = wanted;
    }
    get(shared, group).await
}

async fn apply(
    group: &GroupHandle,
    wanted: &Settings,
    values: &BTreeMap<String, String>,
) -> Result<(), Fault> {
    let timeout = values.contains_key("election_timeout");
    let drift = values.contains_key("max_clock_drift");
    if timeout || drift {
        group
            .order(Order::SetTimeouts {
                election_timeout: wanted.election_timeout,
                max_clock_drift: drift.then_some(wanted.max_clock_drift),
            })
            .await?;
    }
    if values.contains_key("priority") {
        group.control(Control::SetPriority(wanted.priority)).await?;
    }
    Ok(())
}
