// Errors of a few rows of a problem that is too large to be judged wholly.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "api/check_internal.h"
#include "oracle/formats.h"
#include "oracle/oracle.h"

namespace hopfill::check {
namespace {

struct Place {
    std::int64_t sequence = 0, head = 0, row = 0, begin = 0;
};

// First query row of each sequence and, at the end, the number of all.
std::vector<std::int64_t> starts_of(const AttentionProblem& p, const AttentionTensors& t) {
    std::vector<std::int64_t> starts;
    for (std::int64_t s = 0; s <= p.batch; ++s)
        starts.push_back(p.packed ? static_cast<const std::int32_t*>(t.cu_seqlens_q.data)[s] : s * p.max_seqlen_q);
    return starts;
}

}  // namespace

Result<RowErrors> sampled_errors(const AttentionProblem& p, const AttentionTensors& t, std::int64_t rows, std::uint64_t seed) {
    if (rows < 0) return Error{Code::invalid_argument, "rows", fmt::format("is {}; 0 or more is allowed", rows)};
    const std::vector<std::int64_t> starts = starts_of(p, t);
    const std::int64_t all = starts.back() * p.heads;
    // The last row, which sees the most keys, and any others.
    std::set<std::int64_t> chosen;
    if (all > 0 && rows > 0) chosen.insert(all - 1);
    Rng rng(seed, 78);
    while (std::ssize(chosen) < std::min(rows, all)) chosen.insert(rng.between(0, all - 1));
    std::vector<Place> places;
    for (const std::int64_t i : chosen) {
        const std::int64_t token = i / p.heads;
        const auto after = std::upper_bound(starts.begin(), starts.end(), token);
        const std::int64_t begin = *(after - 1);
        places.push_back({after - starts.begin() - 1, i % p.heads, token - begin, p.packed ? begin : 0});
    }
    struct Sum {
        double squares = 0, max = 0;
        std::string fault;
    };
    std::vector<Sum> sums(places.size());
    parallel(std::ssize(places), 0, [&](std::int64_t index) {
        const Place& at = places[static_cast<std::size_t>(index)];
        Sum& sum = sums[static_cast<std::size_t>(index)];
        const oracle::Row truth = oracle::rows(p, t, at.sequence, at.head, {at.row}).front();
        for (std::int64_t c = 0; c < p.head_dim; ++c) {
            const double got = oracle::load(t.o.dtype, t.o.data, offset(t.o, at.sequence, at.begin, at.row, at.head) + c);
            const double error = got - truth.o[static_cast<std::size_t>(c)];
            if (!std::isfinite(error) && sum.fault.empty())
                sum.fault = fmt::format("is {} at sequence {} head {} row {} column {}; the oracle has {:.6g}", got, at.sequence, at.head, at.row, c,
                                        truth.o[static_cast<std::size_t>(c)]);
            sum.squares += error * error;
            sum.max = std::max(sum.max, std::fabs(error));
        }
    });
    RowErrors errors;
    for (const Sum& sum : sums) {
        if (!sum.fault.empty()) return Error{Code::internal, "o", sum.fault};
        errors.rms += sum.squares;
        errors.max = std::max(errors.max, sum.max);
    }
    errors.rows = std::ssize(places);
    if (errors.rows > 0) errors.rms = std::sqrt(errors.rms / static_cast<double>(errors.rows * p.head_dim));
    return errors;
}

}  // namespace hopfill::check
