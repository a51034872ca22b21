//! Writing families whose samples are at hand.

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;

/// The labels of a sample.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Name and description of a family. The unit is added to the name.
#[derive(Clone, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
}

/// A family without a unit.
pub(super) const fn family(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        unit: None,
    }
}

/// A family with a unit.
pub(super) const fn family_in(unit: Unit, name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        help,
        unit: Some(unit),
    }
}

/// Where families are written to.
pub(super) struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// A family of one gauge.
    pub(super) fn gauge(&mut self, family: &Family, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(family, [(Labels::new(), value)])
    }

    /// A family of gauges; nothing if there are none.
    pub(super) fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.samples(family, MetricType::Gauge, samples)
    }

    /// A family of one counter; `_total` is added to the name.
    pub(super) fn counter(
        &mut self,
        family: &Family,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.counters(family, [(Labels::new(), value)])
    }

    /// A family of counters; nothing if there are none.
    pub(super) fn counters<'l, V: EncodeCounterValue>(
        &mut self,
        family: &Family,
        samples: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.samples(family, MetricType::Counter, samples)
    }

    /// A family of one histogram. Each bucket has its upper bound and what is in it alone.
    pub(super) fn histogram(
        &mut self,
        family: &Family,
        sum: f64,
        buckets: &[(f64, u64)],
    ) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut metric = self.encoder.encode_descriptor(
            family.name,
            &help(family),
            family.unit.as_ref(),
            MetricType::Histogram,
        )?;
        metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }

    fn samples<'l, M: EncodeMetric>(
        &mut self,
        family: &Family,
        kind: MetricType,
        samples: impl Iterator<Item = (Labels<'l>, M)>,
    ) -> fmt::Result {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let (help, unit) = (help(family), family.unit.as_ref());
        let mut metric = self
            .encoder
            .encode_descriptor(family.name, &help, unit, kind)?;
        for (labels, sample) in samples {
            match labels.is_empty() {
                // Not `encode_family`, which would write empty braces.
                true => return sample.encode(metric),
                false => sample.encode(metric.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }
}

/// The registry ends descriptions of what is registered with a full stop.
fn help(family: &Family) -> String {
    format!("{}.", family.help)
}
