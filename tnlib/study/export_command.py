"""The command `export`: a network in, an ONNX file out that was compared with torch."""

from __future__ import annotations

from pathlib import Path

import click

from tnlib.study.compress_command import PATH, parse_shape


@click.command(epilog="example: tnlib export runs/small --int8")
@click.argument("network", metavar="FOLDER|NETWORK")
@click.option("--out", type=PATH, metavar="DIR", help="folder to write to (default: FOLDER)")
@click.option("--weights", type=PATH, metavar="FILE", help="safetensors that are loaded into NETWORK")
@click.option("--inputs", type=PATH, metavar="FILE|FOLDER", help=".npz or .npy, or a folder of such batches; no labels")
@click.option("--example", metavar="SHAPE", help="1,3,32,32: the shape of random inputs, without --inputs")
@click.option("--int8", is_flag=True, help="write network.int8.onnx, too, calibrated on the inputs or training images")
@click.option("--skip", multiple=True, metavar="NAME", help="a module that stays in float there")
@click.option("--lanes", type=click.IntRange(1), help="pad ranks of convolutions to multiples (default 8; AVX-512: 16)")
@click.option("--force", is_flag=True, help="replace earlier ONNX files in DIR; other files there stay")
def export(
    network: str,
    *,
    out: Path | None,
    weights: Path | None,
    inputs: Path | None,
    example: str | None,
    int8: bool,
    skip: tuple[str, ...],
    lanes: int | None,
    force: bool,
) -> None:
    """Write a network as ONNX: network.onnx, and run_onnx.py, which runs it.

    FOLDER is one that tnlib compress wrote; NETWORK as there. What ONNX Runtime computes is compared with torch, on
    images of the network's data set, on the inputs, or on random ones; where they differ, nothing is written.
    """
    print(f"{network}: loading", flush=True)
    from tnlib.study.exporting import export_network

    files = export_network(
        network,
        out,
        weights=weights,
        inputs=inputs,
        example=None if example is None else parse_shape(example),
        int8=int8,
        skip=skip,
        lanes=lanes,
        force=force,
    )
    print(f"{files.lines()}\nrun it: python {(out or Path(network)) / 'run_onnx.py'} inputs.npy")


COMMANDS = (export,)
