"""`fedllm-bench grid`: methods and seeds on a data set, from presets to one table of paired differences.

Several data sets are so many grids, one after another, and a page over them: `commands/grids.py`.
"""

from __future__ import annotations

import argparse

from fedllm_bench.commands import bench
from fedllm_bench.commands.grid_cells import exit_code, request_of, show
from fedllm_bench.commands.terminal import say
from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError

EXAMPLES = """examples:
  fedllm-bench grid aya --seeds 0,1,2                            (eight methods, local among them, and central)
  fedllm-bench grid aya --methods local,fedavg,scaffold --seeds 0,1,2
  fedllm-bench grid aya --table methods --seeds 0,1,2            (all methods and rules, by family)
  fedllm-bench grid aya --set federation.rounds=60 --set fedprox:method.mu=0.1
                                                                 (METHOD: before a setting of one method)
  fedllm-bench grid aya --methods local,fedavg,fedavg+shuffled   (a control: rows dealt to clients at random)
  fedllm-bench grid aya --methods local,fedavg,fedavg+swapped    (a control: rows with answers of other users)
  fedllm-bench grid aya --methods fedavg,my_method --plugin my_method.py        (docs/plugins.md)
  fedllm-bench grid aya --seeds 0,1,2 --shard 2/4                (the second of four jobs that share the cells)
  fedllm-bench grid aya,wildchat --seeds 0,1,2                   (one table each, and one over both; or: grid all)

Each cell is a run of `fedllm-bench bench`, in the same folder: those that are finished are not run again, and a
grid that was interrupted goes on when the same command is given again. The table, grid.json (docs/grid.md) and
figures lie in OUT/<data set>/grid-<hash>/, what the runs said in its logs/.

The differences to fedavg and to local are paired: the same client, the same seed. Each has two 95% intervals,
one over clients (of each the mean over seeds) and one over seeds.
  clear                both intervals exclude 0. With one seed there is only the one over clients, which says
                       nothing of other seeds; the table then says so.
  not distinguishable  one of the intervals holds 0. That is no proof that two methods are equal: after the mark
                       stands the smallest true difference that would have shown in four of five tries. Three
                       seeds show large ones only; take five or more where minutes allow.
Each comparison stands for itself; the table says how many there are, and claims nothing over all of them.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "grid",
        help="run methods and seeds on a data set and compare them",
        description="Run every method under every seed on a data set, and print one table of paired differences.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", help="a preset of data set, as aya; several with commas between, or all")
    parser.add_argument("--methods", help="names with commas between, or all (default all)")
    parser.add_argument(
        "--table",
        metavar="NAME|FILE",
        help="in place of --methods: rows by family, as methods (all of them), or a TOML file (docs/grid.md)",
    )
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas between (default 0,1,2)")
    parser.add_argument(
        "--jobs", type=bench.positive, metavar="N", help="cells at once (default: one per core, at most 4; 1 on a GPU)"
    )
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N shares of the cells (docs/scaling.md)")
    bench.add_settings(
        parser, metavar="[METHOD:]KEY=VALUE", help="a setting, of all methods or of one; may be repeated"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.commands import grids
    from fedllm_bench.config.preflight import choose_profile
    from fedllm_bench.pipeline.grid_run import finish_grid
    from fedllm_bench.runs.grid import parse_datasets
    from fedllm_bench.runs.shards import Shard

    shard = None if args.shard is None else Shard.parse(args.shard)
    cuda = hardware.has_cuda()
    profile, sentence = choose_profile(args.profile, cuda)
    if (names := parse_datasets(args.dataset)) != (args.dataset,):
        if shard:
            raise UserError(f"--shard {shard}: it is of one data set, and {len(names)} are given; give them one by one")
        return grids.run(args, names, profile, sentence, cuda)
    done = finish_grid(request_of(args, profile), args.jobs, say, first=sentence, shard=shard)
    show(done.payload, done.folder)
    return exit_code(done.codes)
