//! The `kontiki` command as an operator types it.

use crate::cluster::{Cluster, binary, component};
use crate::until;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::process::{Command, Output};
use std::time::Duration;

/// Time for the nodes of a new cluster to find each other.
const PUSH_LIMIT: Duration = Duration::from_secs(30);

/// An operator at a cluster.
#[derive(Clone, Debug)]
pub struct Operator {
    endpoints: String,
}

impl Operator {
    /// An operator who knows every node of `cluster`.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            endpoints: cluster.addresses().join(","),
        }
    }

    /// An operator who knows only these addresses.
    #[must_use]
    pub fn at(addresses: &[String]) -> Self {
        Self {
            endpoints: addresses.join(","),
        }
    }

    /// Types `kontiki WORDS…` and gives what came back.
    ///
    /// # Errors
    /// If the binary cannot be run.
    pub fn types(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command
            .env("KONTIKI_ENDPOINTS", &self.endpoints)
            .args(words);
        command
            .output()
            .with_context(|| format!("run kontiki {words:?}"))
    }

    /// Types a command that must succeed; gives its standard output.
    ///
    /// # Errors
    /// If it does not exit with 0; shows what it printed.
    pub fn does(&self, words: &[&str]) -> Result<String> {
        let output = self.types(words)?;
        ensure!(
            output.status.success(),
            "kontiki {}: {}\n{}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`does`](Self::does), with `-o json`, and reads the document.
    ///
    /// # Errors
    /// As `does`, or if the output is no JSON document.
    pub fn reads(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
        let text = self.does(&words)?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text}"))
    }

    /// Types a command that must fail with exit code `code` and name `reason` on standard error.
    ///
    /// # Errors
    /// If it ends otherwise; shows what it printed.
    pub fn is_refused(&self, words: &[&str], code: i32, reason: &str) -> Result<()> {
        let output = self.types(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code) && said.contains(reason),
            "kontiki {}: {}, not exit {code} with {reason}\n{said}",
            words.join(" "),
            output.status
        );
        Ok(())
    }

    /// Pushes the plugin `counter`, as soon as all nodes can be reached, and creates a group of it
    /// on the nodes called `voters`.
    ///
    /// # Errors
    /// As [`does`](Self::does).
    pub async fn creates_counter(&self, group: &str, voters: &[&str]) -> Result<()> {
        let component = component("counter")?.display().to_string();
        let pushed = until("every node has the plugin", PUSH_LIMIT, async || {
            self.reads(&["plugin", "push", &component]).map(Some)
        })
        .await?;
        let digest = pushed["digest"].as_str().context("push answers a digest")?;
        let voters = voters.join(",");
        self.does(&[
            "group", "create", group, "--plugin", digest, "--voters", &voters,
        ])?;
        Ok(())
    }
}
