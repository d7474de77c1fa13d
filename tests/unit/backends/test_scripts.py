from pathlib import Path

from switchboard_server.backends.redis import realtime_scripts, registry_scripts, scripts
from switchboard_server.backends.redis.scripts import read

FOLDER = Path(scripts.__file__).parent / "lua"


def test_a_part_stands_once_and_before_what_includes_it() -> None:
    source = read("realtime/admit")
    heads = [
        source.index(part.read_text(encoding="utf-8").splitlines()[0])
        for part in (
            FOLDER / "realtime/parts/basics.lua",
            FOLDER / "realtime/parts/histories.lua",
            FOLDER / "realtime/parts/members.lua",
            FOLDER / "realtime/parts/alive.lua",
            FOLDER / "realtime/admit.lua",
        )
    ]
    assert heads == sorted(heads)
    assert source.count("local B, NODE, CLOCK, CHANNEL =") == 1
    assert "@include" not in source


def test_each_file_is_run_or_included() -> None:
    for module, folder in ((realtime_scripts, "realtime"), (registry_scripts, "registry")):
        sources = [value for name, value in vars(module).items() if name.isupper()]
        text = "".join(each for each in sources if isinstance(each, str))
        for file in (FOLDER / folder).rglob("*.lua"):
            assert file.read_text(encoding="utf-8").splitlines()[-1] in text, file
            assert file.read_text(encoding="utf-8").splitlines()[0] in text, file
