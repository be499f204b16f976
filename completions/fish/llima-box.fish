# Completion of llima-box's tools for fish. Made by scripts/gen-docs from the command lines and
# completions/sections/fish. It runs nothing but lbx-ls and lbx-snap list, which start nothing.

# words so far|word|kind|help
set -g __lbx_table (string split \n -- 'lbx-name|-0|flag|Operands on standard input and names on standard output end with NUL, not newline
lbx-name|--null|flag|Operands on standard input and names on standard output end with NUL, not newline
lbx-name|--name|@none|Use WORD in place of the path\'s last component
lbx-name|@*|@dir|Paths of projects, which need not exist [default: .]; \'-\' reads them from standard input
lbx-name|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-name|-q|flag|Print errors only
lbx-name|--quiet|flag|Print errors only
lbx-name|-v|flag|Say on stderr what is done
lbx-name|--verbose|flag|Say on stderr what is done
lbx-name|-h|flag|Print help
lbx-name|--help|flag|Print help
lbx-name|-V|flag|Print version
lbx-name|--version|flag|Print version
lbx-env|create|verb|Create the environment of each path, and print its name
lbx-env create|--exclusive|flag|Fail where the environment exists
lbx-env create|--json|flag|Print the record in place of the name
lbx-env create|-0|flag|Operands on standard input end with NUL, not newline
lbx-env create|--null|flag|Operands on standard input end with NUL, not newline
lbx-env create|--count|@none|As many forks, numbered from 1
lbx-env create|@*|@dir|Directories of projects [default: .]; \'-\' reads them from standard input
lbx-env create|--name|@none|Use WORD in place of the path\'s last component in the name
lbx-env create|--from|@env|Fork ENV: with its home and its changes, as they are or as its snapshot TAG has them
lbx-env create|--project|rw ro cow|The project inside: itself, itself read-only, or a layer over it to write to [default: rw]
lbx-env create|--ro|@file|Show PATH inside, read-only; may be repeated
lbx-env create|--rw|@file|Show PATH inside, read-write; may be repeated
lbx-env create|--private|@dir|Lay a directory of the environment\'s own over DIR of the project; may be repeated
lbx-env create|--net|shared none|The network inside: the place\'s, or loopback alone [default: shared]
lbx-env create|--label|@none|Label, for people and scripts; may be repeated
lbx-env create|--shell|@file|Login shell inside [default: zsh where installed, else bash]
lbx-env create|--nest|?yes no|Let programs inside make user namespaces: browsers\' and bwrap\'s sandboxes
lbx-env create|--git|@none|git setting inside: user.name, user.email or init.defaultBranch; may be repeated
lbx-env create|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env create|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env create|-q|flag|Print errors only
lbx-env create|--quiet|flag|Print errors only
lbx-env create|-v|flag|Say on stderr what is done
lbx-env create|--verbose|flag|Say on stderr what is done
lbx-env create|-h|flag|Print help
lbx-env create|--help|flag|Print help
lbx-env|set|verb|Change options; a repeated option replaces the whole list, an empty value clears it
lbx-env set|-0|flag|Operands on standard input end with NUL, not newline
lbx-env set|--null|flag|Operands on standard input end with NUL, not newline
lbx-env set|@*|@env|Names, or paths of projects; \'-\' reads them from standard input
lbx-env set|--project|rw ro cow|The project inside: itself, itself read-only, or a layer over it to write to [default: rw]
lbx-env set|--ro|@file|Show PATH inside, read-only; may be repeated
lbx-env set|--rw|@file|Show PATH inside, read-write; may be repeated
lbx-env set|--private|@dir|Lay a directory of the environment\'s own over DIR of the project; may be repeated
lbx-env set|--net|shared none|The network inside: the place\'s, or loopback alone [default: shared]
lbx-env set|--label|@none|Label, for people and scripts; may be repeated
lbx-env set|--shell|@file|Login shell inside [default: zsh where installed, else bash]
lbx-env set|--nest|?yes no|Let programs inside make user namespaces: browsers\' and bwrap\'s sandboxes
lbx-env set|--git|@none|git setting inside: user.name, user.email or init.defaultBranch; may be repeated
lbx-env set|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env set|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env set|-q|flag|Print errors only
lbx-env set|--quiet|flag|Print errors only
lbx-env set|-v|flag|Say on stderr what is done
lbx-env set|--verbose|flag|Say on stderr what is done
lbx-env set|-h|flag|Print help
lbx-env set|--help|flag|Print help
lbx-env|start|verb|Start environments; entering one does so too
lbx-env start|-0|flag|Operands on standard input end with NUL, not newline
lbx-env start|--null|flag|Operands on standard input end with NUL, not newline
lbx-env start|@*|@env|Names, or paths of projects; \'-\' reads them from standard input
lbx-env start|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env start|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env start|-q|flag|Print errors only
lbx-env start|--quiet|flag|Print errors only
lbx-env start|-v|flag|Say on stderr what is done
lbx-env start|--verbose|flag|Say on stderr what is done
lbx-env start|-h|flag|Print help
lbx-env start|--help|flag|Print help
lbx-env|stop|verb|End every process of environments; homes and projects stay
lbx-env stop|-0|flag|Operands on standard input end with NUL, not newline
lbx-env stop|--null|flag|Operands on standard input end with NUL, not newline
lbx-env stop|@*|@env|Names, or paths of projects; \'-\' reads them from standard input
lbx-env stop|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env stop|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env stop|-q|flag|Print errors only
lbx-env stop|--quiet|flag|Print errors only
lbx-env stop|-v|flag|Say on stderr what is done
lbx-env stop|--verbose|flag|Say on stderr what is done
lbx-env stop|-h|flag|Print help
lbx-env stop|--help|flag|Print help
lbx-env|repair|verb|Finish or undo what was interrupted or damaged
lbx-env repair|-0|flag|Operands on standard input end with NUL, not newline
lbx-env repair|--null|flag|Operands on standard input end with NUL, not newline
lbx-env repair|@*|@env|Names, or paths of projects; \'-\' reads them from standard input
lbx-env repair|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env repair|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env repair|-q|flag|Print errors only
lbx-env repair|--quiet|flag|Print errors only
lbx-env repair|-v|flag|Say on stderr what is done
lbx-env repair|--verbose|flag|Say on stderr what is done
lbx-env repair|-h|flag|Print help
lbx-env repair|--help|flag|Print help
lbx-env|discard|verb|Drop what was changed in copy-on-write projects: of PATH alone, or all of it
lbx-env discard|-0|flag|Operands on standard input end with NUL, not newline
lbx-env discard|--null|flag|Operands on standard input end with NUL, not newline
lbx-env discard|@1|@env|Name, or path of a project
lbx-env discard|@*|@dir|Paths below the project; \'-\' reads them from standard input [default: all]
lbx-env discard|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env discard|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env discard|-q|flag|Print errors only
lbx-env discard|--quiet|flag|Print errors only
lbx-env discard|-v|flag|Say on stderr what is done
lbx-env discard|--verbose|flag|Say on stderr what is done
lbx-env discard|-h|flag|Print help
lbx-env discard|--help|flag|Print help
lbx-env|save|verb|Make a snapshot: freeze the home and what was changed in a copy-on-write project
lbx-env save|@1|@env|Name, or path of a project
lbx-env save|@2|@none|What to call the snapshot
lbx-env save|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env save|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env save|-q|flag|Print errors only
lbx-env save|--quiet|flag|Print errors only
lbx-env save|-v|flag|Say on stderr what is done
lbx-env save|--verbose|flag|Say on stderr what is done
lbx-env save|-h|flag|Print help
lbx-env save|--help|flag|Print help
lbx-env|restore|verb|Bring a snapshot back; what was there becomes a snapshot as well
lbx-env restore|@1|@env|Name, or path of a project
lbx-env restore|@2|@tag|What the snapshot is called
lbx-env restore|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env restore|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env restore|-q|flag|Print errors only
lbx-env restore|--quiet|flag|Print errors only
lbx-env restore|-v|flag|Say on stderr what is done
lbx-env restore|--verbose|flag|Say on stderr what is done
lbx-env restore|-h|flag|Print help
lbx-env restore|--help|flag|Print help
lbx-env|forget|verb|Drop snapshots
lbx-env forget|@1|@env|Name, or path of a project
lbx-env forget|@*|@tag|What the snapshots are called
lbx-env forget|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env forget|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env forget|-q|flag|Print errors only
lbx-env forget|--quiet|flag|Print errors only
lbx-env forget|-v|flag|Say on stderr what is done
lbx-env forget|--verbose|flag|Say on stderr what is done
lbx-env forget|-h|flag|Print help
lbx-env forget|--help|flag|Print help
lbx-env|delete|verb|Delete environments with their homes; projects stay
lbx-env delete|-f|flag|A missing environment is no failure
lbx-env delete|--force|flag|A missing environment is no failure
lbx-env delete|-0|flag|Operands on standard input end with NUL, not newline
lbx-env delete|--null|flag|Operands on standard input end with NUL, not newline
lbx-env delete|@*|@env|Names, or paths of projects; \'-\' reads them from standard input
lbx-env delete|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env delete|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env delete|-q|flag|Print errors only
lbx-env delete|--quiet|flag|Print errors only
lbx-env delete|-v|flag|Say on stderr what is done
lbx-env delete|--verbose|flag|Say on stderr what is done
lbx-env delete|-h|flag|Print help
lbx-env delete|--help|flag|Print help
lbx-env|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-env|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-env|-q|flag|Print errors only
lbx-env|--quiet|flag|Print errors only
lbx-env|-v|flag|Say on stderr what is done
lbx-env|--verbose|flag|Say on stderr what is done
lbx-env|-h|flag|Print help
lbx-env|--help|flag|Print help
lbx-env|-V|flag|Print version
lbx-env|--version|flag|Print version
lbx-enter|@1|@env|Name, or path of the project
lbx-enter|@*|@command|The command and its arguments [default: the login shell]
lbx-enter|-n|flag|Standard input is /dev/null
lbx-enter|--no-stdin|flag|Standard input is /dev/null
lbx-enter|-A|flag|Forward the caller\'s ssh agent, to list keys and to sign
lbx-enter|--agent|flag|Forward the caller\'s ssh agent, to list keys and to sign
lbx-enter|--chdir|@dir|Start in DIR, relative to the project [default: where the caller stands in the project]
lbx-enter|--env|@variable|Pass variable NAME with the caller\'s value, or with VALUE; may be repeated
lbx-enter|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-enter|-q|flag|Print errors only
lbx-enter|--quiet|flag|Print errors only
lbx-enter|-v|flag|Say on stderr what is done
lbx-enter|--verbose|flag|Say on stderr what is done
lbx-enter|-h|flag|Print help
lbx-enter|--help|flag|Print help
lbx-enter|-V|flag|Print version
lbx-enter|--version|flag|Print version
lbx-ls|--names|flag|Print names alone, one a line
lbx-ls|-0|flag|Names, and operands on standard input, end with NUL, not newline
lbx-ls|--null|flag|Names, and operands on standard input, end with NUL, not newline
lbx-ls|--state|running stopped broken|Only environments in this state: running, stopped or broken; may be repeated
lbx-ls|--label|@none|Only environments with this label; may be repeated, all must match
lbx-ls|--containing|@file|Only environments whose project is PATH or holds it
lbx-ls|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION; may be repeated
lbx-ls|-q|flag|Print errors only
lbx-ls|--quiet|flag|Print errors only
lbx-ls|-v|flag|Say on stderr what is done
lbx-ls|--verbose|flag|Say on stderr what is done
lbx-ls|@*|@env|Names or paths of environments [default: all]; \'-\' reads them from standard input
lbx-ls|-h|flag|Print help
lbx-ls|--help|flag|Print help
lbx-ls|-V|flag|Print version
lbx-ls|--version|flag|Print version
lbx-diff|--json|flag|Print JSON lines
lbx-diff|-p|flag|Print a patch, which git apply takes
lbx-diff|--patch|flag|Print a patch, which git apply takes
lbx-diff|--stat|flag|Print how many lines were changed
lbx-diff|--name-only|flag|Print names without letters
lbx-diff|-z|flag|Names end with NUL and are not quoted; operands on standard input end with NUL
lbx-diff|--null|flag|Names end with NUL and are not quoted; operands on standard input end with NUL
lbx-diff|--digest|flag|In JSON, the SHA-256 of files, before and after
lbx-diff|--against|@env|Compare with what environment ENV2 of the same path has, and not with the project
lbx-diff|--color|auto always never|When to colour: auto, always or never
lbx-diff|--no-pager|flag|Print to the terminal itself, through no pager
lbx-diff|@1|@env|Name, or path of the project
lbx-diff|@*|@dir|Only what lies at or below PATH, relative to the project; \'-\' reads them from standard input
lbx-diff|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-diff|-q|flag|Print errors only
lbx-diff|--quiet|flag|Print errors only
lbx-diff|-v|flag|Say on stderr what is done
lbx-diff|--verbose|flag|Say on stderr what is done
lbx-diff|-h|flag|Print help
lbx-diff|--help|flag|Print help
lbx-diff|-V|flag|Print version
lbx-diff|--version|flag|Print version
lbx-apply|--dry-run|flag|Print what would be done, one step a line, and do nothing
lbx-apply|--force|flag|Take the environment\'s, where both sides have changed
lbx-apply|--merge|flag|Merge files that both sides have changed, where git holds what they were
lbx-apply|-y|flag|Do not ask
lbx-apply|--yes|flag|Do not ask
lbx-apply|-0|flag|Paths on standard input end with NUL, not newline
lbx-apply|--null|flag|Paths on standard input end with NUL, not newline
lbx-apply|@1|@env|Name, or path of the project
lbx-apply|@*|@dir|Changed paths, relative to the project [default: all]; \'-\' reads them from standard input
lbx-apply|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-apply|-q|flag|Print errors only
lbx-apply|--quiet|flag|Print errors only
lbx-apply|-v|flag|Say on stderr what is done
lbx-apply|--verbose|flag|Say on stderr what is done
lbx-apply|-h|flag|Print help
lbx-apply|--help|flag|Print help
lbx-apply|-V|flag|Print version
lbx-apply|--version|flag|Print version
lbx-discard|-y|flag|Do not ask
lbx-discard|--yes|flag|Do not ask
lbx-discard|-0|flag|Paths on standard input end with NUL, not newline
lbx-discard|--null|flag|Paths on standard input end with NUL, not newline
lbx-discard|@1|@env|Name, or path of the project
lbx-discard|@*|@dir|Changed paths, relative to the project [default: all]; \'-\' reads them from standard input
lbx-discard|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-discard|-q|flag|Print errors only
lbx-discard|--quiet|flag|Print errors only
lbx-discard|-v|flag|Say on stderr what is done
lbx-discard|--verbose|flag|Say on stderr what is done
lbx-discard|-h|flag|Print help
lbx-discard|--help|flag|Print help
lbx-discard|-V|flag|Print version
lbx-discard|--version|flag|Print version
lbx-on|@1|@place|Where to run it: lima[:INSTANCE] or ssh:DESTINATION
lbx-on|@2|lbx-name lbx-ls lbx-env lbx-enter lbx-diff lbx-apply lbx-discard lbx-snap lbx-probe llima-box|A tool of llima-box: lbx-NAME or llima-box
lbx-on|@*|@none|The words behind it
lbx-on|--serve|flag|Be the far end: answer at the socket that systemd passes, else on standard input and output
lbx-on|-h|flag|Print help
lbx-on|--help|flag|Print help
lbx-on|-V|flag|Print version
lbx-on|--version|flag|Print version
lbx-probe|--list|flag|Print each attack: its name, what it tries, the CVE or feature of the kernel
lbx-probe|--json|flag|Print JSON lines
lbx-probe|-0|flag|Operands on standard input end with NUL, not newline
lbx-probe|--null|flag|Operands on standard input end with NUL, not newline
lbx-probe|@*|@env|Names or paths of environments; \'-\' reads them from standard input
lbx-probe|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-probe|-q|flag|Print errors only
lbx-probe|--quiet|flag|Print errors only
lbx-probe|-v|flag|Say on stderr what is done
lbx-probe|--verbose|flag|Say on stderr what is done
lbx-probe|-h|flag|Print help
lbx-probe|--help|flag|Print help
lbx-probe|-V|flag|Print version
lbx-probe|--version|flag|Print version
lbx-snap|save|verb|Make a snapshot of the home and of a copy-on-write project, and print its tag
lbx-snap save|--stop|flag|Stop the environment, and start it again
lbx-snap save|--keep|@none|Delete older snapshots, all but N
lbx-snap save|@1|@env|Name, or path of the project
lbx-snap save|@2|@none|What to call the snapshot [default: the time, 20261128T031500Z]
lbx-snap save|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-snap save|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-snap save|-q|flag|Print errors only
lbx-snap save|--quiet|flag|Print errors only
lbx-snap save|-v|flag|Say on stderr what is done
lbx-snap save|--verbose|flag|Say on stderr what is done
lbx-snap save|-h|flag|Print help
lbx-snap save|--help|flag|Print help
lbx-snap|list|verb|Print the snapshots, the oldest first
lbx-snap list|--json|flag|Print one JSON line per snapshot
lbx-snap list|--tags|flag|Print tags alone, one a line
lbx-snap list|@1|@env|Name, or path of the project
lbx-snap list|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-snap list|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-snap list|-q|flag|Print errors only
lbx-snap list|--quiet|flag|Print errors only
lbx-snap list|-v|flag|Say on stderr what is done
lbx-snap list|--verbose|flag|Say on stderr what is done
lbx-snap list|-h|flag|Print help
lbx-snap list|--help|flag|Print help
lbx-snap|restore|verb|Bring a snapshot back; what was there becomes a snapshot as well
lbx-snap restore|--stop|flag|Stop the environment, and start it again
lbx-snap restore|@1|@env|Name, or path of the project
lbx-snap restore|@2|@tag|What the snapshot is called
lbx-snap restore|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-snap restore|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-snap restore|-q|flag|Print errors only
lbx-snap restore|--quiet|flag|Print errors only
lbx-snap restore|-v|flag|Say on stderr what is done
lbx-snap restore|--verbose|flag|Say on stderr what is done
lbx-snap restore|-h|flag|Print help
lbx-snap restore|--help|flag|Print help
lbx-snap|delete|verb|Delete snapshots
lbx-snap delete|@1|@env|Name, or path of the project
lbx-snap delete|@*|@tag|What the snapshots are called; \'-\' reads that from standard input
lbx-snap delete|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-snap delete|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-snap delete|-q|flag|Print errors only
lbx-snap delete|--quiet|flag|Print errors only
lbx-snap delete|-v|flag|Say on stderr what is done
lbx-snap delete|--verbose|flag|Say on stderr what is done
lbx-snap delete|-h|flag|Print help
lbx-snap delete|--help|flag|Print help
lbx-snap|--dry-run|flag|Print the steps, one a line, and do nothing
lbx-snap|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-snap|-q|flag|Print errors only
lbx-snap|--quiet|flag|Print errors only
lbx-snap|-v|flag|Say on stderr what is done
lbx-snap|--verbose|flag|Say on stderr what is done
lbx-snap|-h|flag|Print help
lbx-snap|--help|flag|Print help
lbx-snap|-V|flag|Print version
lbx-snap|--version|flag|Print version
lbx-vm|start|verb|Start the VM, created where there is none, and put the guest tools there
lbx-vm start|--existing|flag|Fail where there is no VM yet
lbx-vm start|--template|@file|YAML file of Lima that is laid over the built-in template
lbx-vm start|--cpus|@none|Processors [default: 4, or the machine\'s if fewer]
lbx-vm start|--memory|@none|Memory, as in 6GiB [default: half of the machine\'s, at most 8GiB]
lbx-vm start|--disk|@none|Disk, as in 60GiB; it takes no more room than is used [default: 100GiB]
lbx-vm start|--mount|@dir|Directory that the VM sees at the same path, writable [default: the home]; may be repeated
lbx-vm start|--dry-run|flag|Print what would be done, and do nothing
lbx-vm start|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-vm start|-q|flag|Print errors only
lbx-vm start|--quiet|flag|Print errors only
lbx-vm start|-v|flag|Say on stderr what is done
lbx-vm start|--verbose|flag|Say on stderr what is done
lbx-vm start|-h|flag|Print help
lbx-vm start|--help|flag|Print help
lbx-vm|status|verb|Print one word: running, stopped, absent or broken
lbx-vm status|--json|flag|Print what is known of the VM as one JSON object
lbx-vm status|--dry-run|flag|Print what would be done, and do nothing
lbx-vm status|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-vm status|-q|flag|Print errors only
lbx-vm status|--quiet|flag|Print errors only
lbx-vm status|-v|flag|Say on stderr what is done
lbx-vm status|--verbose|flag|Say on stderr what is done
lbx-vm status|-h|flag|Print help
lbx-vm status|--help|flag|Print help
lbx-vm|stop|verb|Stop the VM; its environments stop with it
lbx-vm stop|--dry-run|flag|Print what would be done, and do nothing
lbx-vm stop|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-vm stop|-q|flag|Print errors only
lbx-vm stop|--quiet|flag|Print errors only
lbx-vm stop|-v|flag|Say on stderr what is done
lbx-vm stop|--verbose|flag|Say on stderr what is done
lbx-vm stop|-h|flag|Print help
lbx-vm stop|--help|flag|Print help
lbx-vm|restart|verb|Stop the VM, even one that does not answer, and start it
lbx-vm restart|--cpus|@none|Processors [default: 4, or the machine\'s if fewer]
lbx-vm restart|--memory|@none|Memory, as in 6GiB [default: half of the machine\'s, at most 8GiB]
lbx-vm restart|--disk|@none|Disk, as in 60GiB; it takes no more room than is used [default: 100GiB]
lbx-vm restart|--mount|@dir|Directory that the VM sees at the same path, writable [default: the home]; may be repeated
lbx-vm restart|--dry-run|flag|Print what would be done, and do nothing
lbx-vm restart|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-vm restart|-q|flag|Print errors only
lbx-vm restart|--quiet|flag|Print errors only
lbx-vm restart|-v|flag|Say on stderr what is done
lbx-vm restart|--verbose|flag|Say on stderr what is done
lbx-vm restart|-h|flag|Print help
lbx-vm restart|--help|flag|Print help
lbx-vm|delete|verb|Delete the VM with all its environments; projects stay
lbx-vm delete|--yes|flag|Confirm it: this tool never asks
lbx-vm delete|--dry-run|flag|Print what would be done, and do nothing
lbx-vm delete|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-vm delete|-q|flag|Print errors only
lbx-vm delete|--quiet|flag|Print errors only
lbx-vm delete|-v|flag|Say on stderr what is done
lbx-vm delete|--verbose|flag|Say on stderr what is done
lbx-vm delete|-h|flag|Print help
lbx-vm delete|--help|flag|Print help
lbx-vm|--dry-run|flag|Print what would be done, and do nothing
lbx-vm|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
lbx-vm|-q|flag|Print errors only
lbx-vm|--quiet|flag|Print errors only
lbx-vm|-v|flag|Say on stderr what is done
lbx-vm|--verbose|flag|Say on stderr what is done
lbx-vm|-h|flag|Print help
lbx-vm|--help|flag|Print help
lbx-vm|-V|flag|Print version
lbx-vm|--version|flag|Print version
llima-box|shell|verb|Enter the environment of a project, which is created when there is none
llima-box shell|@1|@env|Name, or directory of the project [default: the project around the current directory]
llima-box shell|@--|@command|The command and its arguments, behind \'--\' [default: the login shell]
llima-box shell|--name|@none|Use WORD in place of the path\'s last component in the name
llima-box shell|--from|@env|Fork ENV: with its home and its changes, as they are or as its snapshot TAG has them
llima-box shell|--project|rw ro cow|The project inside: itself, itself read-only, or a layer over it to write to [default: rw]
llima-box shell|--ro|@file|Show PATH inside, read-only; may be repeated
llima-box shell|--rw|@file|Show PATH inside, read-write; may be repeated
llima-box shell|--private|@dir|Lay a directory of the environment\'s own over DIR of the project; may be repeated
llima-box shell|--net|shared none|The network inside: the place\'s, or loopback alone [default: shared]
llima-box shell|--label|@none|Label, for people and scripts; may be repeated
llima-box shell|--shell|@file|Login shell inside [default: zsh where installed, else bash]
llima-box shell|--nest|?yes no|Let programs inside make user namespaces: browsers\' and bwrap\'s sandboxes
llima-box shell|--git|@none|git setting inside: user.name, user.email or init.defaultBranch; may be repeated
llima-box shell|-n|flag|Standard input is /dev/null
llima-box shell|--no-stdin|flag|Standard input is /dev/null
llima-box shell|-A|flag|Forward the caller\'s ssh agent, to list keys and to sign
llima-box shell|--agent|flag|Forward the caller\'s ssh agent, to list keys and to sign
llima-box shell|--chdir|@dir|Start in DIR, relative to the project [default: where the caller stands in the project]
llima-box shell|--env|@variable|Pass variable NAME with the caller\'s value, or with VALUE; may be repeated
llima-box shell|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
llima-box shell|-q|flag|Print errors only
llima-box shell|--quiet|flag|Print errors only
llima-box shell|-v|flag|Say on stderr what is done
llima-box shell|--verbose|flag|Say on stderr what is done
llima-box shell|-h|flag|Print help
llima-box shell|--help|flag|Print help
llima-box|list|verb|List environments, as a table
llima-box list|--json|flag|Print JSON lines, as lbx-ls does
llima-box list|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
llima-box list|-q|flag|Print errors only
llima-box list|--quiet|flag|Print errors only
llima-box list|-v|flag|Say on stderr what is done
llima-box list|--verbose|flag|Say on stderr what is done
llima-box list|-h|flag|Print help
llima-box list|--help|flag|Print help
llima-box|delete|verb|Delete environments with their homes, after asking; projects stay
llima-box delete|-y|flag|Do not ask
llima-box delete|--yes|flag|Do not ask
llima-box delete|-f|flag|As --yes, and a missing environment is no failure
llima-box delete|--force|flag|As --yes, and a missing environment is no failure
llima-box delete|-0|flag|Operands on standard input end with NUL, not newline
llima-box delete|--null|flag|Operands on standard input end with NUL, not newline
llima-box delete|@*|@env|Names, or paths of projects; \'-\' reads them from standard input
llima-box delete|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
llima-box delete|-q|flag|Print errors only
llima-box delete|--quiet|flag|Print errors only
llima-box delete|-v|flag|Say on stderr what is done
llima-box delete|--verbose|flag|Say on stderr what is done
llima-box delete|-h|flag|Print help
llima-box delete|--help|flag|Print help
llima-box|delete-all|verb|Delete all environments with their homes, after asking; projects stay
llima-box delete-all|-y|flag|Do not ask
llima-box delete-all|--yes|flag|Do not ask
llima-box delete-all|-f|flag|As --yes, and a missing environment is no failure
llima-box delete-all|--force|flag|As --yes, and a missing environment is no failure
llima-box delete-all|--on|@place|Where the environments live: local, lima[:INSTANCE] or ssh:DESTINATION
llima-box delete-all|-q|flag|Print errors only
llima-box delete-all|--quiet|flag|Print errors only
llima-box delete-all|-v|flag|Say on stderr what is done
llima-box delete-all|--verbose|flag|Say on stderr what is done
llima-box delete-all|-h|flag|Print help
llima-box delete-all|--help|flag|Print help
llima-box|help|verb|Open the man page of a verb
llima-box help|@1|@verb|A verb, or the name of a tool
llima-box help|-h|flag|Print help
llima-box help|--help|flag|Print help
llima-box|-h|flag|Print help
llima-box|--help|flag|Print help
llima-box|-V|flag|Print version
llima-box|--version|flag|Print version
llima-box|name|tool|Prints the environment name of a path
llima-box|env|tool|Creates, starts, stops, repairs and deletes environments
llima-box|enter|tool|Runs one command inside an environment
llima-box|ls|tool|Prints one JSON line per environment
llima-box|diff|tool|Tells what an environment changed of its project
llima-box|apply|tool|Puts what was changed in an environment into the project
llima-box|discard|tool|Drops what was changed in an environment
llima-box|on|tool|Runs one tool at another place
llima-box|probe|tool|Attacks environments from inside, and tells what the kernel answered
llima-box|snap|tool|Saves and restores snapshots of an environment
llima-box|vm|tool|Ensures the VM: created, running, guest tools in place')

# Prints the kind of word $argv[2] in context $argv[1].
function __lbx_kind
    set -l start (string escape --style=regex -- "$argv[1]|$argv[2]|")
    set -l kinds (string replace -rf -- "^$start([^|]*).*" '$1' $__lbx_table)
    or return
    echo $kinds[1]
end

# Prints the words of context $argv[1] whose word and kind match $argv[2] and $argv[3], with help.
function __lbx_words
    set -l start (string escape --style=regex -- "$argv[1]|")
    for row in (string match -r -- "^$start.*" $__lbx_table)
        set -l field (string split -m 3 '|' -- $row)
        string match -qr -- $argv[2] $field[2]
        and string match -qr -- $argv[3] $field[3]
        and printf '%s\t%s\n' $field[2] $field[4]
    end
end

# Prints the kind of the next operand: context, how many there were, whether behind '--'.
function __lbx_operand
    if test "$argv[3]" = yes
        __lbx_kind $argv[1] @--
        and return
    end
    # a verb of one's own: its operands may be anything
    if test "$argv[1]" = llima-box -a $argv[2] -gt 0
        echo @file
        return
    end
    __lbx_kind $argv[1] @(math $argv[2] + 1)
    or __lbx_kind $argv[1] '@*'
    or test -z "$(__lbx_words $argv[1] '^[^-@]' '^(verb|tool)$')"
    or echo @verb
end

# Prints the values of kind $argv[1] that may begin with $argv[2]; $argv[3] is the place,
# $argv[4] the tool, $argv[5] the environment.
function __lbx_values
    switch (string replace -r '^\?' '' -- $argv[1])
        case '' flag @none
        case @env
            set -l on
            test -n "$argv[3]"; and set on --on $argv[3]
            # as they are: there may be thousands, and to say of each what it is takes longer than to list them
            lbx-ls --names $on 2>/dev/null
            __fish_complete_directories $argv[2]
        case @tag
            set -l on
            test -n "$argv[3]"; and set on --on $argv[3]
            test -n "$argv[5]"; and lbx-snap list --tags $on -- $argv[5] 2>/dev/null
        case @dir
            __fish_complete_directories $argv[2]
        case @file
            __fish_complete_path $argv[2]
        case @command
            complete -C $argv[2]
        case @variable
            set -nx
        case @place
            printf '%s\n' local lima: ssh:
        case @verb
            __lbx_words $argv[4] '^[^-@]' '^(verb|tool)$'
            # tools of one's own
            if test "$argv[4]" = llima-box
                for file in $PATH/lbx-*
                    test -x $file
                    and string replace -r '.*/lbx-' '' -- $file
                end
            end
        case '*'
            string split ' ' -- (string replace -r '^\?' '' -- $argv[1])
    end
end

function __lbx_complete
    set -l line (commandline -opc)
    set -l current (commandline -ct)
    set -l context (string replace -r '.*/' '' -- $line[1])
    set -l tool $context
    set -l place
    set -l env
    set -l wants
    set -l dashes no
    set -l operands 0
    for word in $line[2..]
        if test -n "$wants"
            test "$wants" = @place; and set place $word
            set wants
        else if test $dashes = no; and test "$word" = --
            set dashes yes
        else if test $dashes = no; and string match -qr -- '^-.' $word
            set -l option (string split -m 1 = -- $word)
            set -l kind (__lbx_kind $context $option[1])
            if test "$kind" = @place -a (count $option) = 2
                set place $option[2]
            else if test (count $option) = 1 -a -n "$kind" -a "$kind" != flag
                string match -q '\?*' -- $kind
                or set wants $kind
            end
        else
            set -l kind
            test $operands = 0 -a $dashes = no
            and set kind (__lbx_kind $context $word)
            switch "$kind"
                case tool
                    set context lbx-$word
                    set tool $context
                case verb
                    set context "$context $word"
                case '*'
                    switch "$(__lbx_operand $context $operands $dashes)"
                        case @command
                            # its arguments: any files
                            __fish_complete_path $current
                            return
                        case @env
                            set env $word
                    end
                    set operands (math $operands + 1)
            end
        end
    end
    if test -n "$wants"
        __lbx_values $wants $current "$place" $tool "$env"
    else if test $dashes = no; and string match -qr -- '^--.*=' $current
        set -l option (string split -m 1 = -- $current)
        __lbx_values (__lbx_kind $context $option[1]) $option[2] "$place" $tool "$env" | string replace -r '^' -- $option[1]=
    else if test $dashes = no; and string match -qr -- '^-' $current
        __lbx_words $context '^-' .
    else
        __lbx_values "$(__lbx_operand $context $operands $dashes)" "$current" "$place" $tool "$env"
    end
end

for tool in lbx-name lbx-env lbx-enter lbx-ls lbx-diff lbx-apply lbx-discard lbx-snap lbx-probe llima-box
    complete -c $tool -f -a '(__lbx_complete)'
end
