"""What a cell does with names, read from its code: nothing is executed."""

import ast
from dataclasses import dataclass, field
from functools import lru_cache

# Settings of PyTorch in a chapter's first cell: harmless to leave out.
HARMLESS = {
    f"torch.{name}"
    for name in (
        "manual_seed",
        "set_printoptions",
        "set_default_dtype",
        "set_num_threads",
        "use_deterministic_algorithms",
    )
}
# Calls that set something for all later cells.
SETTING = {"use_book_style", "set_printoptions", "seed", "filterwarnings", "simplefilter"}
# Methods that change their object.
CHANGING = {"add", "append", "appendleft", "clear", "discard", "extend", "fill", "insert", "pop"}
CHANGING |= {"popleft", "remove", "reverse", "setdefault", "shuffle", "sort", "update"}
# Methods of tensors that arrays do not have.
OF_TENSORS = {"softmax", "log_softmax", "masked_fill", "unsqueeze", "detach", "backward", "numpy"}


@dataclass
class Names:
    reads: set[str] = field(default_factory=set)  # what cells above must have bound
    loads: set[str] = field(default_factory=set)  # those, and its own
    binds: set[str] = field(default_factory=set)
    may_bind: set[str] = field(default_factory=set)  # in a branch or a loop
    changes: set[str] = field(default_factory=set)  # the objects of names
    bodies: dict[str, set[str]] = field(default_factory=dict)  # what its functions read
    generators: set[str] = field(default_factory=set)  # random ones that it makes
    imports: dict[str, str] = field(default_factory=dict)  # by the bound name, the dotted name
    dotted: set[str] = field(default_factory=set)  # a.b.c, as written
    tensors: set[str | None] = field(default_factory=set)  # whose methods only tensors have
    sets: bool = False  # something for all later cells


@lru_cache(maxsize=1000)
def names_of(source: str) -> Names:
    """What a cell does with names; a mistake in its grammar counts as a setting."""
    try:
        return _Reader().read(ast.parse(source))
    except SyntaxError:
        return Names(sets=True)  # whoever needs a cell above is shown this one's error


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _held(node: ast.expr | None) -> set[str]:
    """The functions that a value holds without calling them: in a list, a dictionary, a partial."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Lambda):
        return {part.id for part in ast.walk(node.body) if isinstance(part, ast.Name)}
    parts: list[ast.expr | None] = []
    if isinstance(node, ast.Dict):
        parts = node.values
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        parts = list(node.elts)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("partial", "dict")):
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
    return set().union(*map(_held, parts))


class _Reader(ast.NodeVisitor):
    """Visits the parts of a cell in the order in which they run."""

    def __init__(self) -> None:
        self.names = Names()
        self.scopes: list[set[str]] = []  # the own names of the functions around
        self.branches = 0  # and loops, around
        self.deferred: list[str] = []  # what is read when a function is called

    def read(self, tree: ast.Module) -> Names:
        self.visit(tree)
        known = self.names.binds | self.names.may_bind
        self.names.reads |= set(self.deferred) - known
        return self.names

    def visit_all(self, *nodes: ast.AST | None) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def is_local(self, name: str | None) -> bool:
        return any(name in scope for scope in self.scopes)

    def load(self, name: str) -> None:
        if self.is_local(name):
            return
        self.names.loads.add(name)
        if self.scopes:
            self.deferred.append(name)
        elif name not in self.names.binds | self.names.may_bind:
            self.names.reads.add(name)

    def bind(self, name: str) -> None:
        if self.scopes:
            self.scopes[-1].add(name)
        else:
            (self.names.may_bind if self.branches else self.names.binds).add(name)

    def change(self, name: str | None) -> None:
        if name and not self.is_local(name):
            self.names.changes.add(name)

    # expressions

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.load(node.id)
        else:
            self.bind(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self.is_local(_root(node)):
            self.names.dotted.add(ast.unparse(node))
        if not isinstance(node.ctx, ast.Load):
            self.change(_root(node))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.change(_root(node))
            self.names.sets |= "rcParams" in ast.unparse(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called in HARMLESS:
            return
        name = called.rpartition(".")[2]
        self.names.sets |= name in SETTING or called.endswith("rcParams.update")
        if isinstance(node.func, ast.Attribute):
            if name in CHANGING:
                self.change(_root(node.func))
            if name in OF_TENSORS:
                self.names.tensors.add(_root(node.func))
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit_all(node.value, node.target)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.function(node.args, [node.body])

    def visit_ListComp(self, node: ast.AST) -> None:
        first, *others = node.generators
        self.visit(first.iter)
        deferred, self.deferred = self.deferred, []
        self.scopes.append(set())
        self.visit_all(first.target, *first.ifs, *others)
        self.visit_all(*(getattr(node, part, None) for part in ("elt", "key", "value")))
        self.scopes.pop()
        now, self.deferred = self.deferred, deferred
        for name in now:  # it runs here, unlike a function
            self.load(name)

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit_all(node.iter, node.target, *node.ifs)

    # statements

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit_all(node.value, *node.targets)
        value = node.value
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("default_rng"):
            self.names.generators |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif not self.scopes:
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.names.bodies[target.id] = _held(value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self.load(node.target.id)
            self.change(node.target.id)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit_all(node.annotation, node.value, node.target if node.value else None)

    def branch(self, *nodes: ast.AST) -> None:
        self.branches += 1
        self.visit_all(*nodes)
        self.branches -= 1

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self.branch(node.target, *node.body, *node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self.branch(*node.body, *node.orelse)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self.branch(*node.body, *node.orelse)

    def visit_Try(self, node: ast.Try) -> None:
        self.branch(*node.body, *node.handlers, *node.orelse, *node.finalbody)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bind(node.name)
        self.generic_visit(node)

    # functions and classes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit_all(*node.decorator_list)
        self.bind(node.name)
        before = len(self.deferred)
        self.function(node.args, node.body)
        if not self.scopes:
            self.names.bodies[node.name] = set(self.deferred[before:])

    def function(self, arguments: ast.arguments, body: list) -> None:
        self.visit_all(*arguments.defaults, *arguments.kw_defaults)
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a]
        self.visit_all(*(a.annotation for a in every))
        own = {a.arg for a in every}
        shared: set[str] = set()
        for part in (p for statement in body for p in ast.walk(statement)):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                own.add(part.id)  # its own on every line of the function
            elif isinstance(part, ast.FunctionDef | ast.ClassDef):
                own.add(part.name)
            elif isinstance(part, ast.Global):
                shared.update(part.names)
        self.names.changes |= shared
        self.scopes.append(own - shared)
        self.visit_all(*body)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_all(*node.decorator_list, *node.bases, *node.keywords)
        self.bind(node.name)
        before = len(self.deferred)
        self.scopes.append(set())
        self.visit_all(*node.body)
        self.scopes.pop()
        if not self.scopes:
            self.names.bodies[node.name] = set(self.deferred[before:])

    # imports

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            self.bind(bound)
            self.names.imports[bound] = alias.name if alias.asname else bound

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.bind(alias.asname or alias.name)
            self.names.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
