//! Showing and changing settings while the node runs.

use super::Shared;
use super::status::{Fault, Reason};
use crate::node::overrides::Edit;
use crate::node::settings::{SETTINGS, Setting, SettingError};
use crate::node::tuning::{ChangeError, Changed, Layers};
use kontiki_proto::v1;
use kontiki_raft::Settings;

impl From<SettingError> for Fault {
    fn from(error: SettingError) -> Self {
        Self::new(Reason::SettingInvalid, error.to_string())
    }
}

impl From<ChangeError> for Fault {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Setting(error) => error.into(),
            ChangeError::Replica(error) => error.into(),
            ChangeError::Group { .. } => Self::new(Reason::SettingInvalid, error.to_string()),
        }
    }
}

/// The settings of a group's replica here, or of the node if `group` is empty.
pub(crate) fn get(shared: &Shared, group: &str) -> Result<v1::GetSettingsReply, Fault> {
    let layers = match group {
        "" => shared.context.layers(),
        name => shared.context.layers_of(&shared.group(name)?),
    };
    Ok(v1::GetSettingsReply {
        settings: shown(shared, &layers),
        skipped: Vec::new(),
    })
}

/// Changes settings of one group here, or of every group and those to come if `group` is empty.
/// All are checked before any is changed.
pub(crate) async fn change(
    shared: &Shared,
    group: &str,
    edit: &Edit,
    dry_run: bool,
) -> Result<v1::GetSettingsReply, Fault> {
    if matches!(edit, Edit::Set(values) if values.is_empty()) {
        return Err(Fault::invalid("no setting is named"));
    }
    let group = match group {
        "" => None,
        name => Some(shared.group(name)?),
    };
    let changing = shared
        .context
        .change_settings(group.as_ref(), edit, dry_run);
    let Changed { layers, skipped } = changing.await?;
    let skipped = skipped
        .into_iter()
        .map(|(group, why)| v1::SkippedReplica { group, why });
    Ok(v1::GetSettingsReply {
        settings: shown(shared, &layers),
        skipped: skipped.collect(),
    })
}

fn shown(shared: &Shared, layers: &Layers) -> Vec<v1::Setting> {
    let defaults = Settings::default();
    let shown = |setting: &Setting| v1::Setting {
        name: setting.name.to_owned(),
        value: setting.value(&layers.settings),
        range: setting.range.to_owned(),
        help: setting.help.to_owned(),
        braft_name: setting.braft_name.to_owned(),
        changeable: true,
        default_value: setting.value(&defaults),
        source: layers.source(&shared.context, setting).as_str().to_owned(),
    };
    SETTINGS.iter().map(shown).collect()
}
