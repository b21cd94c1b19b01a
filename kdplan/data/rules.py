"""What a plan can write after `split`, `protocol` and `verticals`: rules that divide samples or classes."""

from __future__ import annotations

from kdplan.ir.spec import Param, Spec

SPLITS = {
    spec.name: spec
    for spec in (
        Spec("per_class",
             (Param("train", "integer", doc="training images a class", low=1), Param("seed", "integer", 0)),
             "The same number of training images of every class; the rest is `test`, or `val` if there is a `test`."),
        Spec("fraction",
             (Param("train", "number", doc="part for training", above=0, high=1), Param("seed", "integer", 0)),
             "A class-balanced part for training; the rest is `test`, or `val` if there is a `test`."),
    )
}  # fmt: skip

PROTOCOLS = {
    spec.name: spec
    for spec in (
        Spec("templates",
             (Param("size", "integer", 3, "samples in a template", low=1),
              Param("splits", "integer", 10, "how often all is drawn anew", low=1, high=1000),
              Param("subjects", "integer", None, "classes drawn for each split, by default all", low=2),
              Param("pairs", "integer", 10_000, "at most so many pairs of one subject, and of two", low=1),
              Param("seed", "integer", 0)),
             "In every split each class's samples are shuffled and cut into templates: the first is enrolled in the "
             "gallery, the others are looked up, and all are verified against one another."),
    )
}  # fmt: skip

PARTITIONS = {
    spec.name: spec
    for spec in (
        Spec("random", (Param("parts", "integer", doc="how many", low=2), Param("seed", "integer", 0)),
             "A seeded random partition into parts whose sizes differ by at most one."),
        Spec("hierarchy",
             (Param("file", "string", doc="rows `name,parent` of a CSV file beside the plan or in the data folder, "
                                          "or a JSON object name -> parents"),
              Param("level", "integer", 1, "where it is cut; 0 are the roots", low=0)),
             "One part for each name at a level of a hierarchy: the classes that are it or stand below it."),
    )
}  # fmt: skip
