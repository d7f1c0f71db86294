//! Numbers for Prometheus. The names are those of vLLM's `/metrics`, which inference gateways and
//! dashboards read (vllm-project/vllm, `docs/design/metrics.md`); what vLLM has no name for begins
//! with `keeve:`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keeve_engine::{Stats, Timings};

/// Upper bounds of the buckets of times, in seconds.
const BOUNDS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

#[derive(Debug, Clone, Default)]
struct Histogram {
    /// Observations up to each bound, and above all of them.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum += seconds;
    }
}

#[derive(Debug, Default)]
struct Inner {
    prompt_tokens: u64,
    generated_tokens: u64,
    /// By why they ended.
    finished: BTreeMap<&'static str, u64>,
    refused: u64,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    queued: Histogram,
}

/// What was counted for one model.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Inner>);

impl Metrics {
    fn with(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The first token of an answer came so long after the request.
    pub fn first_token(&self, after: Duration) {
        self.with(|inner| inner.first_token.observe(after));
    }

    /// A further token came so long after the one before.
    pub fn next_token(&self, after: Duration) {
        self.with(|inner| inner.between_tokens.observe(after));
    }

    /// An answer ended.
    pub fn finished(&self, reason: &'static str, after: Duration, timings: &Timings) {
        self.with(|inner| {
            *inner.finished.entry(reason).or_default() += 1;
            inner.prompt_tokens += timings.prompt_tokens as u64;
            inner.generated_tokens += timings.decode_tokens as u64;
            inner.whole.observe(after);
            inner.queued.observe(timings.queued);
        });
    }

    /// An answer failed.
    pub fn failed(&self, after: Duration) {
        self.with(|inner| {
            *inner.finished.entry("error").or_default() += 1;
            inner.whole.observe(after);
        });
    }

    /// Nobody waits any longer for so many answers.
    pub fn aborted(&self, answers: usize, after: Duration) {
        self.with(|inner| {
            for _ in 0..answers {
                *inner.finished.entry("abort").or_default() += 1;
                inner.whole.observe(after);
            }
        });
    }

    /// A request was refused because the queue was full.
    pub fn refused(&self) {
        self.with(|inner| inner.refused += 1);
    }

    /// So many answers ended.
    pub fn ended(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).finished.values().sum()
    }
}

/// One model's numbers, for [`render`].
pub struct Labelled<'a> {
    /// Its name.
    pub model: &'a str,
    /// What was counted.
    pub metrics: &'a Metrics,
    /// What its engine says; all zero while it is not loaded.
    pub stats: Stats,
    /// Requests that were accepted and have not reached the engine yet, or wait in it.
    pub waiting: usize,
}

/// Everything in Prometheus' text format.
pub fn render(models: &[Labelled<'_>]) -> String {
    let mut page = Page { text: String::new(), models };
    page.gauge("vllm:num_requests_running", "Running requests.", |model| {
        model.stats.running as f64
    });
    page.gauge("vllm:num_requests_waiting", "Waiting requests, queued or preempted.", |model| {
        model.waiting as f64
    });
    let usage =
        |model: &Labelled<'_>| model.stats.pages_held as f64 / model.stats.pages.max(1) as f64;
    page.gauge("vllm:kv_cache_usage_perc", "KV cache usage: blocks in use, 1 is all.", usage);
    page.gauge("vllm:gpu_cache_usage_perc", "As kv_cache_usage_perc, under its older name.", usage);
    page.gauge("keeve:kv_pages_held", "KV cache blocks in use.", |model| {
        model.stats.pages_held as f64
    });
    page.counter(
        "vllm:num_preemptions_total",
        "Preemptions for lack of KV cache blocks.",
        |model| model.stats.preemptions as f64,
    );
    page.counter("vllm:prefix_cache_queries_total", "Prefix cache queries, in tokens.", |model| {
        model.stats.prompt_tokens as f64
    });
    page.counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in tokens.", |model| {
        model.stats.cached_tokens as f64
    });
    page.counter(
        "vllm:spec_decode_num_draft_tokens_total",
        "Speculative decoding: draft tokens.",
        |model| model.stats.drafted_tokens as f64,
    );
    page.counter(
        "vllm:spec_decode_num_accepted_tokens_total",
        "Speculative decoding: accepted tokens.",
        |model| model.stats.accepted_tokens as f64,
    );
    page.counted("vllm:prompt_tokens_total", "Prompt tokens.", |inner| inner.prompt_tokens);
    page.counted("vllm:generation_tokens_total", "Generated tokens.", |inner| {
        inner.generated_tokens
    });
    page.counted(
        "keeve:requests_refused_total",
        "Requests rejected because the queue was full.",
        |inner| inner.refused,
    );
    page.finished();
    page.histogram("vllm:time_to_first_token_seconds", "Time to first token (TTFT).", |inner| {
        &inner.first_token
    });
    page.histogram("vllm:inter_token_latency_seconds", "Inter-token latency (ITL).", |inner| {
        &inner.between_tokens
    });
    page.histogram("vllm:e2e_request_latency_seconds", "End-to-end request latency.", |inner| {
        &inner.whole
    });
    page.histogram("vllm:request_queue_time_seconds", "Queue time.", |inner| &inner.queued);
    page.text.push_str("# HELP vllm:cache_config_info The KV cache.\n");
    page.text.push_str("# TYPE vllm:cache_config_info gauge\n");
    for model in models {
        let Stats { page_tokens, pages, .. } = model.stats;
        let name = escaped(model.model);
        let _ = writeln!(
            page.text,
            "vllm:cache_config_info{{model_name=\"{name}\",block_size=\"{page_tokens}\",num_gpu_blocks=\"{pages}\"}} 1"
        );
    }
    page.text
}

/// A label's value.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Page<'a> {
    text: String,
    models: &'a [Labelled<'a>],
}

// Writing to a String cannot fail.
impl Page<'_> {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Fn(&Labelled<'_>) -> f64) {
        self.head(name, help, "gauge");
        self.values(name, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Fn(&Labelled<'_>) -> f64) {
        self.head(name, help, "counter");
        self.values(name, value);
    }

    fn counted(&mut self, name: &str, help: &str, value: impl Fn(&Inner) -> u64) {
        self.counter(name, help, |model| {
            value(&model.metrics.0.lock().unwrap_or_else(PoisonError::into_inner)) as f64
        });
    }

    fn values(&mut self, name: &str, value: impl Fn(&Labelled<'_>) -> f64) {
        for model in self.models {
            let label = escaped(model.model);
            let _ = writeln!(self.text, "{name}{{model_name=\"{label}\"}} {}", value(model));
        }
    }

    fn finished(&mut self) {
        let name = "vllm:request_success_total";
        self.head(name, "Requests that ended, by reason.", "counter");
        for model in self.models {
            let label = escaped(model.model);
            let inner = model.metrics.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (reason, count) in &inner.finished {
                let _ = writeln!(
                    self.text,
                    "{name}{{model_name=\"{label}\",finished_reason=\"{reason}\"}} {count}"
                );
            }
        }
    }

    fn histogram(&mut self, name: &str, help: &str, of: impl Fn(&Inner) -> &Histogram) {
        self.head(name, help, "histogram");
        for model in self.models {
            let label = escaped(model.model);
            let inner = model.metrics.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Histogram { counts, sum } = of(&inner);
            let mut total = 0;
            let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".into()]);
            for (bound, count) in bounds.zip(counts) {
                total += count;
                let _ = writeln!(
                    self.text,
                    "{name}_bucket{{model_name=\"{label}\",le=\"{bound}\"}} {total}"
                );
            }
            let _ = writeln!(self.text, "{name}_sum{{model_name=\"{label}\"}} {sum}");
            let _ = writeln!(self.text, "{name}_count{{model_name=\"{label}\"}} {total}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let metrics = Metrics::default();
        metrics.first_token(Duration::from_millis(3));
        metrics.first_token(Duration::from_secs(500));
        metrics.finished("stop", Duration::from_secs(1), &Timings::default());
        let model =
            Labelled { model: "a\"b", metrics: &metrics, stats: Stats::default(), waiting: 2 };
        let text = render(&[model]);
        for line in [
            "vllm:num_requests_waiting{model_name=\"a\\\"b\"} 2",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"0.005\"} 1",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"120\"} 1",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"+Inf\"} 2",
            "vllm:request_success_total{model_name=\"a\\\"b\",finished_reason=\"stop\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in {text}");
        }
    }
}
