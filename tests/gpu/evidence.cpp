#include "evidence.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace hopfill::gpu {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

bool write_evidence(const std::string& folder, const Evidence& e) {
    std::error_code ignored;
    fs::create_directories(folder, ignored);
    auto outputs = Json::array();
    for (const RecordedOutput& o : e.outputs) outputs.push_back({{"case", o.text}, {"sha256", o.sha256}});
    const Json json{{"key", e.key},
                    {"kernel", e.kernel},
                    {"gpu", e.gpu},
                    {"driver", e.driver},
                    {"date", e.date},
                    {"cases_passed", e.cases},
                    {"worst_share_of_tolerance", e.worst},
                    {"launches_with_same_bits", e.same_bits_launches},
                    {"outputs", outputs}};
    std::ofstream out(fs::path(folder) / (e.key + ".json"));
    out << json.dump(1) << '\n';
    return out.good();
}

std::vector<Evidence> read_evidence(const std::string& folder) {
    std::vector<Evidence> all;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
        if (entry.path().extension() != ".json") continue;
        std::ifstream in(entry.path());
        const auto json = nlohmann::json::parse(in, nullptr, false);
        if (!json.is_object() || json.value("key", "") != entry.path().stem()) continue;
        Evidence e;
        e.key = json.value("key", "");
        e.kernel = json.value("kernel", "");
        for (const auto& o : json.value("outputs", nlohmann::json::array())) e.outputs.push_back({o.value("case", ""), o.value("sha256", "")});
        all.push_back(std::move(e));
    }
    return all;
}

}  // namespace hopfill::gpu
