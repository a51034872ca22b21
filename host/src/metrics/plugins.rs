//! Calls into plugins.

use super::{buckets, seconds};
use kontiki_plugin::{Export, Fault};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabel {
    plugin: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExportLabels {
    plugin: String,
    export: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    plugin: String,
    export: String,
    result: String,
}

/// What is measured of all plugins. Labels are by name, not by version: few, and they stay.
#[derive(Debug)]
pub(super) struct Plugins {
    calls: Family<CallLabels, Counter>,
    duration: Family<ExportLabels, Histogram>,
    fuel: Family<PluginLabel, Counter>,
    apply_duration: Histogram,
}

impl Plugins {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let apply_duration = seconds(
            registry,
            "apply_duration",
            "Time of one batch in the plugin",
            &buckets::CALL,
        );
        let plugins = Self {
            calls: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(buckets::CALL)),
            fuel: Family::default(),
            apply_duration,
        };
        registry.register(
            "plugin_calls",
            "Calls into plugins, by export and result",
            plugins.calls.clone(),
        );
        registry.register_with_unit(
            "plugin_call_duration",
            "Time of a call into a plugin",
            Unit::Seconds,
            plugins.duration.clone(),
        );
        registry.register(
            "plugin_fuel",
            "Fuel that plugins have used, about one unit an instruction",
            plugins.fuel.clone(),
        );
        plugins
    }

    /// Looks the series of one plugin up, so that its calls need no look-up.
    pub(super) fn of(&self, plugin: &str) -> PluginMetrics {
        let fuel = PluginLabel {
            plugin: plugin.to_owned(),
        };
        PluginMetrics {
            start: self.export(plugin, Export::Start),
            apply: self.export(plugin, Export::Apply),
            query: self.export(plugin, Export::Query),
            fuel: self.fuel.get_or_create_owned(&fuel),
            apply_duration: self.apply_duration.clone(),
        }
    }

    fn export(&self, plugin: &str, export: Export) -> ExportMetrics {
        let result = |result: CallResult| {
            self.calls.get_or_create_owned(&CallLabels {
                plugin: plugin.to_owned(),
                export: export.to_string(),
                result: result.as_str().to_owned(),
            })
        };
        ExportMetrics {
            ok: result(CallResult::Ok),
            plugin_fault: result(CallResult::PluginFault),
            node_fault: result(CallResult::NodeFault),
            duration: self.duration.get_or_create_owned(&ExportLabels {
                plugin: plugin.to_owned(),
                export: export.to_string(),
            }),
        }
    }
}

/// How a call into a plugin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// It returned; its own "no" is among these.
    Ok,
    /// The plugin is to blame.
    PluginFault,
    /// This node is to blame.
    NodeFault,
}

impl CallResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PluginFault => "plugin_fault",
            Self::NodeFault => "node_fault",
        }
    }
}

/// Who is to blame, if anybody.
pub(crate) fn result_of(fault: Option<&Fault>) -> CallResult {
    match fault {
        None => CallResult::Ok,
        Some(Fault::Guest(_)) => CallResult::PluginFault,
        Some(Fault::Environment(_)) => CallResult::NodeFault,
    }
}

/// What is measured of the machines of one plugin.
#[derive(Clone, Debug)]
pub(crate) struct PluginMetrics {
    start: ExportMetrics,
    apply: ExportMetrics,
    query: ExportMetrics,
    fuel: Counter,
    apply_duration: Histogram,
}

#[derive(Clone, Debug)]
struct ExportMetrics {
    ok: Counter,
    plugin_fault: Counter,
    node_fault: Counter,
    duration: Histogram,
}

impl ExportMetrics {
    fn called(&self, took: Duration, result: CallResult) {
        let counter = match result {
            CallResult::Ok => &self.ok,
            CallResult::PluginFault => &self.plugin_fault,
            CallResult::NodeFault => &self.node_fault,
        };
        counter.inc();
        self.duration.observe(took.as_secs_f64());
    }
}

impl PluginMetrics {
    /// An instance was made.
    pub(crate) fn started(&self, took: Duration, result: CallResult) {
        self.start.called(took, result);
    }

    /// A batch was handed to `apply`.
    pub(crate) fn applied(&self, took: Duration, result: CallResult) {
        self.apply.called(took, result);
        self.apply_duration.observe(took.as_secs_f64());
    }

    /// A query was run.
    pub(crate) fn queried(&self, took: Duration, result: CallResult) {
        self.query.called(took, result);
    }

    /// That much more fuel was used.
    pub(crate) fn fuel_used(&self, fuel: u64) {
        self.fuel.inc_by(fuel);
    }
}
