//! The Prometheus text format, version 0.0.4, written from counters and histograms that others keep.

use std::fmt::{Display, Write};

use hdrhistogram::Histogram;

/// A page of metrics being written.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// Labels of a sample: names and values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', " ");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// One sample of a counter or gauge.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        let labels = render(labels, None);
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// A family of one counter.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A family of one gauge.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// The samples of one histogram, whose values count `unit_seconds`: buckets at 1, 2.5 and 5 of each power of ten from
    /// a microsecond to ten seconds, sum, count.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        histogram: &Histogram<u64>,
        unit_seconds: f64,
    ) {
        let mut recorded = histogram.iter_recorded().peekable();
        let mut count = 0;
        let mut sum = 0.0;
        for bound in bounds() {
            while let Some(step) = recorded.peek()
                && seconds(step.value_iterated_to(), unit_seconds) <= bound
            {
                count += step.count_at_value();
                sum += seconds(step.value_iterated_to(), unit_seconds)
                    * approximate(step.count_at_value());
                recorded.next();
            }
            let labels = render(labels, Some(&bound.to_string()));
            self.line(format_args!("{name}_bucket{labels} {count}"));
        }
        for step in recorded {
            count += step.count_at_value();
            sum += seconds(step.value_iterated_to(), unit_seconds)
                * approximate(step.count_at_value());
        }
        let infinite = render(labels, Some("+Inf"));
        let labels = render(labels, None);
        self.line(format_args!("{name}_bucket{infinite} {count}"));
        self.line(format_args!("{name}_sum{labels} {sum}"));
        self.line(format_args!("{name}_count{labels} {count}"));
    }

    /// The page.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String never fails");
    }
}

fn bounds() -> impl Iterator<Item = f64> {
    let decades = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    decades
        .into_iter()
        .flat_map(|decade| [1.0, 2.5, 5.0].map(|step| step * decade))
        .chain([10.0])
}

fn seconds(value: u64, unit_seconds: f64) -> f64 {
    approximate(value) * unit_seconds
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sums of latencies need no more than 53 bits"
)]
fn approximate(value: u64) -> f64 {
    value as f64
}

fn render(labels: Labels<'_>, bound: Option<&str>) -> String {
    let bound = bound.map(|bound| ("le", bound));
    let all: Vec<String> = labels
        .iter()
        .copied()
        .chain(bound)
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    if all.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_labels_have_the_form_that_prometheus_reads() {
        let mut page = Exposition::default();
        page.counter("a_total", "What it\nis.", 7);
        page.family("b", "gauge", "B.");
        page.sample("b", &[("x", "1\"2\\"), ("y", "z")], 8);
        assert_eq!(
            page.finish(),
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total 7\n\
             # HELP b B.\n# TYPE b gauge\nb{x=\"1\\\"2\\\\\",y=\"z\"} 8\n"
        );
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_end_with_all() {
        let mut histogram = Histogram::<u64>::new(3).expect("three digits");
        for nanos in [900, 90_000, 90_000, 60_000_000_000] {
            histogram.record(nanos).expect("resizes");
        }
        let mut page = Exposition::default();
        page.histogram("h_seconds", &[("tier", "ram")], &histogram, 1e-9);
        let text = page.finish();
        let value = |label: &str| {
            let line = text.lines().find(|line| line.contains(label));
            line.and_then(|line| line.rsplit(' ').next())
                .map(str::to_owned)
        };
        assert_eq!(value("le=\"0.000001\"").as_deref(), Some("1"));
        assert_eq!(value("le=\"0.0001\"").as_deref(), Some("3"));
        assert_eq!(value("le=\"10\"").as_deref(), Some("3"));
        assert_eq!(value("le=\"+Inf\"").as_deref(), Some("4"));
        assert_eq!(value("h_seconds_count{tier=\"ram\"}").as_deref(), Some("4"));
        let sum: f64 = value("h_seconds_sum")
            .expect("a sum")
            .parse()
            .expect("a number");
        assert!((sum - 60.000_180_9).abs() < 0.1, "{sum}");
    }
}
