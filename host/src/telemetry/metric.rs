//! Every metric: its name, what it says, its kind and its labels. One table, read by the exposition, by the tests and by
//! people.

use prometheus_client::metrics::histogram::Histogram;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number that only rises; its name gets `_total`.
    Counter,
    /// Seconds that only rise; its name gets `_total`.
    Seconds,
    /// A number that rises and falls.
    Gauge,
    /// Times in seconds, by bucket: 100 µs to 30 s.
    Latency,
    /// Any numbers, by bucket: powers of ten from 0.001 to 10 million.
    Distribution,
}

/// What stands about a metric in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its name, without the `_total` of counters.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($( $variant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal; )*) => {
        /// Every metric of the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric {
            $( #[doc = $help] $variant, )*
        }

        impl Metric {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// What stands about it in the table.
            #[must_use]
            pub const fn spec(self) -> Spec {
                match self {
                    $( Self::$variant => {
                        Spec { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] }
                    } )*
                }
            }
        }
    };
}

metrics! {
    // what comes in
    Records Counter "pelton_records" ["pipeline"] "Records read from the source";
    Bytes Counter "pelton_bytes" ["pipeline"] "Bytes of keys, values and headers read from the source";
    Batches Counter "pelton_batches" ["pipeline"] "Batches that went through the pipeline";
    Lag Gauge "pelton_lag_records" ["pipeline", "topic", "partition"] "Records between the committed offset and the partition's end";
    Committed Gauge "pelton_committed_offset" ["pipeline", "topic", "partition"] "Offset below which everything is durable or decided, as committed";
    InFlight Gauge "pelton_in_flight_records" ["pipeline"] "Records read but not yet durable or decided";
    Rebalances Counter "pelton_rebalances" ["pipeline", "change"] "Changes of the assignment: assigned, revoked, lost";
    LostRecords Counter "pelton_lost_records" ["pipeline", "topic"] "Records that the broker no longer had when they were to be read";
    Misrouted Counter "pelton_misrouted_records" ["pipeline"] "Records that came outside their partition's own queue; more than none is a bug";
    SourceBlocked Gauge "pelton_source_blocked" ["pipeline"] "1 while the source may not be read, or not all of it: permissions or credentials are missing";
    // the plugins
    Generation Gauge "pelton_generation" ["pipeline"] "Number of the generation of its steps that is live";
    Reloads Counter "pelton_reloads" ["pipeline", "outcome"] "Reloads by what became of them: settled, rolled_back, refused";
    Filtered Counter "pelton_filtered_records" ["pipeline"] "Records that a plugin let go";
    Skipped Counter "pelton_skipped_records" ["pipeline", "reason"] "Records passed over, by reason";
    PluginRecords Counter "pelton_plugin_records" ["pipeline", "plugin"] "Records that a plugin was given, each once: attempts that came to nothing do not count";
    ReloadPause Latency "pelton_reload_pause_seconds" ["pipeline"] "Time from the edge at which a partition goes over to another generation until the first part of that one is on its way to the sinks";
    PluginCpuSeconds Seconds "pelton_plugin_cpu_seconds" ["pipeline", "plugin"] "CPU time spent in a plugin";
    PluginMemory Gauge "pelton_plugin_memory_bytes" ["pipeline", "plugin"] "Linear memory of the plugin's instance that was called last";
    PluginTraps Counter "pelton_plugin_traps" ["pipeline", "plugin", "kind"] "Traps and limits hit, by kind";
    PluginLogsDropped Counter "pelton_plugin_log_lines_dropped" ["pipeline", "plugin"] "Log lines of a plugin beyond its limit";
    PluginCounter Counter "pelton_plugin_counter" ["pipeline", "plugin", "metric"] "Counters that plugins keep themselves";
    PluginGauge Gauge "pelton_plugin_gauge" ["pipeline", "plugin", "metric"] "Gauges that plugins keep themselves";
    PluginHistogram Distribution "pelton_plugin_histogram" ["pipeline", "plugin", "metric"] "Histograms that plugins keep themselves";
    PluginMetricsRefused Counter "pelton_plugin_metrics_refused" ["pipeline", "plugin"] "Updates of plugin metrics with a bad name, or beyond the limit of metrics";
    HttpRequests Counter "pelton_plugin_http_requests" ["pipeline", "plugin", "outcome"] "Requests of a plugin to others, by outcome: ok, or why there was no answer: denied, invalid, timeout, too_large, connect, protocol";
    HttpSeconds Latency "pelton_plugin_http_seconds" ["pipeline", "plugin"] "Time of a plugin's request, from its turn until its whole answer was there";
    // what goes out
    Rows Counter "pelton_rows" ["pipeline", "output"] "Rows and records made durable, by output";
    RowBytes Counter "pelton_row_bytes" ["pipeline", "output"] "Bytes made durable, by output";
    SinkSeconds Latency "pelton_sink_seconds" ["pipeline", "output"] "Time from handing a batch to an output until all of it was durable";
    SinkWindow Gauge "pelton_sink_window" ["pipeline", "output"] "Writes that an output allows under way at once";
    SinkBlocked Gauge "pelton_sink_blocked" ["pipeline", "output"] "1 while nothing gets through to an output";
    Retries Counter "pelton_retries" ["pipeline", "stage"] "Tries after the first, by stage: transform:PLUGIN, sink:OUTPUT, dead-letters";
    Expired Counter "pelton_expired_rows" ["pipeline", "output"] "Rows whose time to live had passed before they were written, and so were not";
    Clamped Counter "pelton_clamped_records" ["pipeline", "reason"] "Write times that do not follow the record's own time: future, missing, floor";
    DeadLetters Counter "pelton_dead_letters" ["pipeline", "code"] "Records that went to the dead letters, by code";
    // the pipelines and the process
    LineSeconds Latency "pelton_line_seconds" ["pipeline"] "Time from a batch's arrival until its last row was durable or decided";
    Paused Gauge "pelton_paused" ["pipeline"] "1 while a pipeline is paused";
    Pauses Counter "pelton_pauses" ["pipeline", "cause"] "Times that a pipeline was paused: operator, breaker";
    Restarts Counter "pelton_pipeline_restarts" ["pipeline"] "Times that a pipeline was started again after a failure";
    MemoryBytes Gauge "pelton_memory_bytes" [] "Memory of the process that is in RAM";
    MemoryBudget Gauge "pelton_memory_budget_bytes" [] "Memory that the process was told to stay within";
}

/// Buckets for times: 100 µs to 30 s.
pub(super) fn latency_histogram() -> Histogram {
    Histogram::new([
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ])
}

/// Buckets for anything: powers of ten.
pub(super) fn distribution_histogram() -> Histogram {
    Histogram::new([0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7])
}
