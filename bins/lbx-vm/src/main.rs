//! `lbx-vm`: ensures the VM: created, running, guest tools in place. The only tool that knows
//! `limactl`.

use std::process::ExitCode;

use lbx::failure::Tool;
use lbx_vm::{Cli, Verb};

mod limactl;
mod log;
mod machine;
mod phase;
mod store;
mod template;
mod vm;

use vm::Vm;

const TOOL: Tool = Tool::new("lbx-vm");

fn main() -> ExitCode {
    TOOL.run(|| {
        let cli: Cli = lbx::cli::parse()?;
        let vm = Vm::at(TOOL, &cli)?;
        match &cli.verb {
            Verb::Start { existing, template, options } => vm.start(*existing, template.as_deref(), options),
            Verb::Status { json } => vm.status(*json),
            Verb::Stop => vm.stop(),
            Verb::Restart { options } => vm.restart(options),
            Verb::Delete { yes: _ } => vm.delete(),
        }
    })
}
