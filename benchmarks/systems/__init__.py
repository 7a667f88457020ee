"""The systems that are compared.

Each module has a function ``ways(task, threads)``, which gives the ways in which the system can do a task: by name, a
function without arguments that does it once and returns when the result is there. Data are converted to the system's
own arrays before, and results are left in them.
"""
