// hopfill.quantize.
#pragma once

#include <nanobind/nanobind.h>

namespace hopfill::python {

void define_quantize(nanobind::module_& m);

}  // namespace hopfill::python
