"""Builds the package from settings.ini; the wheel also carries the lessons and the digits."""

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
parser = ConfigParser()
parser.read(root / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
package = settings["lib_name"]
lessons = sorted(root.glob("nbs/[0-9][0-9]_*[!0-9].ipynb"))  # `03_x-Copy1` is somebody's copy
start = root / "nbs" / "machinery" / "00_start_here.ipynb"


class BuildWithLessons(build_py):
    """Copies the digits, the lessons and the page that opens them from the checkout into the built package."""

    def run(self):
        if self.editable_mode:  # an editable install finds them in the checkout
            return super().run()
        target = Path(self.build_lib, package)
        shutil.rmtree(target, ignore_errors=True)  # an earlier build may have left a lesson that has a new name now
        super().run()
        for file in (root / "mnist.pkl.gz", start):
            self.copy_file(str(file), str(target / file.name))
        self.mkpath(str(target / "lessons"))
        for lesson in lessons:
            self.copy_file(str(lesson), str(target / "lessons" / lesson.name))


setup(
    name=package,
    version=settings["version"],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    keywords=settings["keywords"].split(),
    python_requires=f">={settings['min_python']},<{settings['below_python']}",
    packages=[package, f"{package}.exercises"],
    install_requires=settings["requirements"].split(),
    extras_require={name: settings[f"{name}_requirements"].split() for name in ("lessons", "site", "dev", "bench")},
    entry_points={"console_scripts": settings["console_scripts"].split("\n")},
    cmdclass={"build_py": BuildWithLessons},
    zip_safe=False,
)
