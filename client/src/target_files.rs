//! `streamstress target`: lists and shows the built-in target files, and checks a file against its backend.

use crate::{
    cli::{RunArgs, TargetCheckArgs, TargetCommand},
    config::{Config, ConfigErrors},
    connect, preflight,
    run_error::RunError,
};
use dialects::{
    request::Question,
    target::{BUILTIN, builtin},
};
use load::probe::{ProbeStep, Probed, probe};
use report::messages;
use settings::{flags::REFUSED, plural::counted};
use std::time::Duration;

/// Exit code of a check whose file does not fit the backend.
const MISMATCH: u8 = 99;

/// Hint for a check whose first answer fits and a later one does not.
const SECOND_FAILED: &str = "    The first answer was complete. If a session of the backend has one question, use --queries 1, here and in runs.\n";

/// Performs the command. Returns the exit code.
pub(crate) fn command(command: TargetCommand) -> u8 {
    match command {
        TargetCommand::Check(args) => check(*args).unwrap_or_else(|error| {
            messages::print_stderr(&format!("error: {error}"));
            error.exit_code()
        }),
        TargetCommand::List => {
            for file in BUILTIN {
                messages::print_stdout(&format!("{:<14} {}\n", file.name, file.about));
            }
            0
        }
        TargetCommand::Show { name } => show(&name),
    }
}

fn show(name: &str) -> u8 {
    if let Some(file) = builtin(name) {
        messages::print_stdout(file.text);
        return 0;
    }
    let names: Vec<_> = BUILTIN.iter().map(|file| file.name).collect();
    messages::print_stderr(&format!("error: unknown target \"{name}\": expected {}", names.join(", ")));
    REFUSED
}

/// Plays questions and prints what happens.
fn check(args: TargetCheckArgs) -> Result<u8, RunError> {
    let (prompt, questions) = (args.prompt.clone(), args.queries);
    let config = Config::new(options(args), 1, 1)?;
    preflight::host(&config)?;
    let limit = config.plan.load.query_timeout.unwrap_or(Duration::from_secs(30));
    let tls = connect::tls(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ConfigErrors(vec![format!("cannot start the runtime: {error}")]))?;
    let target = &config.plan.target;
    let foreign = target.foreign.as_ref();
    let probed = runtime.block_on(async {
        let connector = preflight::network(&config, &tls).await?;
        let question = Question {
            model: foreign.map_or("", |foreign| &foreign.model),
            prompt: &prompt,
            max_tokens: foreign.and_then(|foreign| foreign.max_tokens),
            ..Question::default()
        };
        Ok::<_, RunError>(probe(target, connector, tls, &question, (questions, limit), &mut print).await)
    })?;
    Ok(conclude(&probed))
}

/// Returns the options of a run with the options of the check.
fn options(args: TargetCheckArgs) -> RunArgs {
    RunArgs {
        target: Some(args.target),
        api_url: args.api_url.into_iter().collect(),
        wsproxy_url: args.wsproxy_url.into_iter().collect(),
        api_key: args.api_key,
        token_command: args.token_command,
        model: args.model,
        max_tokens: args.max_tokens,
        query_timeout: Some(args.timeout.as_str().into()),
        headers: args.headers,
        ca_file: args.ca_file,
        i_am_allowed_to_load_test: args.i_am_allowed_to_load_test,
        clients: Some(1),
        queries: Some(i64::from(args.queries)),
        prompt: Some(args.prompt),
        ..RunArgs::default()
    }
}

fn print(step: ProbeStep) {
    let text = match step {
        ProbeStep::Question(number) => format!("\nquestion {number}\n"),
        ProbeStep::Sent(text) => format!("> {text}\n"),
        ProbeStep::Result(text) => format!("  {text}\n"),
        ProbeStep::Received { text, meanings, hints } => {
            let meanings = meanings.iter().map(|meaning| format!("    = {meaning}\n"));
            let hints = hints.iter().map(|hint| format!("    ! {hint}\n"));
            format!("< {text}\n{}", meanings.chain(hints).collect::<String>())
        }
    };
    messages::print_stdout(&text);
}

/// Prints the result. Returns the exit code.
fn conclude(probed: &Probed) -> u8 {
    let mut text = String::from("\n");
    for problem in &probed.problems {
        text += &format!("  ✗ {}\n", problem.replace('\n', "\n    "));
    }
    match (probed.problems.is_empty(), probed.answers) {
        (true, 1) => text += &format!("  ✓ The answer is complete: {}.\n", counted(probed.tokens, "tokens")),
        (true, many) => {
            text += &format!("  ✓ All {many} answers are complete: {}.\n", counted(probed.tokens, "tokens"));
        }
        (false, 0) => {}
        (false, _) => text += SECOND_FAILED,
    }
    for warning in &probed.warnings {
        text += &format!("  ! {warning}\n");
    }
    for what in &probed.unverified {
        text += &format!("  unverified: {what}\n");
    }
    messages::print_stdout(&text);
    if probed.problems.is_empty() { 0 } else { MISMATCH }
}
