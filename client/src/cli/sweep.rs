//! The options of `streamstress sweep`.

use super::RunArgs;
use clap::Args;
use std::path::PathBuf;

/// The options of `streamstress sweep`, and those of a run.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// Setting with its values, for example wsproxy=1,2,3 (repeatable: all combinations are played)
    ///
    /// The name is an option of `run` (clients, rollup-ms), a setting of the stack (server, wsproxy, haproxy-instances), or an option or
    /// variable of `server` or `wsproxy` (delivery, MAX_STREAMS). A setting with one value is the same in all variants. Values with commas are
    /// separated by |. Settings that change together are joined: server+wsproxy=1+2,2+4.
    #[arg(long, value_name = "NAME=VALUE,…", required = true, hide_env_values = true)]
    pub vary: Vec<String>,
    /// How often each variant is played, 1 to 20. The order is reversed each time [default: 2]
    #[arg(long, value_name = "N")]
    pub repeat: Option<u32>,
    /// Continue an earlier sweep from its _sweep.json. The other options must be the same; --repeat may be larger
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Play the runs on the stack that Docker Compose started, instead of a native one. The sweep changes its numbers of containers and its
    /// variables, and restores them at the end. =PROJECT is needed if several run
    #[arg(long, value_name = "PROJECT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub compose: Option<String>,
    /// The options of the runs.
    #[command(flatten)]
    pub run: RunArgs,
}
